/* Errors: every failure is remembered for aclGetRecentErrMsg, which torch-npu puts into its Python exception, and is
 * printed, because triton-ascend's launcher and some of torch-npu's threads drop error codes. */
#include "host.h"
#include <stdarg.h>
#include <stdio.h>

static char message[2048] = "";
static int last_code;

int host_fail(int code, const char *format, ...) {
  HOST_LOCKED;
  va_list args;
  va_start(args, format);
  int n = snprintf(message, sizeof message, "host CANN: ");
  vsnprintf(message + n, sizeof message - n, format, args);
  va_end(args);
  fprintf(stderr, "%s\n", message);
  last_code = code;
  return code;
}

int host_unimplemented(const char *symbol) {
  return host_fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "%s is not implemented", symbol);
}

const char *aclGetRecentErrMsg(void) { return message; }
aclError aclrtPeekAtLastError(aclrtLastErrLevel level) { (void)level; return last_code; }
aclError aclrtGetLastError(aclrtLastErrLevel level) {
  (void)level;
  int code = last_code;
  last_code = 0;
  return code;
}

/* torch-npu asks after a fault whether the hardware has something to repair. It has not. */
aclError aclrtGetErrorVerbose(int32_t device, aclrtErrorInfo *info) {
  (void)device;
  *info = (aclrtErrorInfo){0};
  return 0;
}

/* PyTorch operators that no CPU implementation was registered for end here, in the operator compiler's entry. */
aclError aclopCompileAndExecute(const char *type, int inputs, const aclTensorDesc *const in_desc[],
                                const aclDataBuffer *const in[], int outputs, const aclTensorDesc *const out_desc[],
                                aclDataBuffer *const out[], const aclopAttr *attr, aclopEngineType engine,
                                aclopCompileType compile, const char *path, aclrtStream stream) {
  (void)inputs, (void)in_desc, (void)in, (void)outputs, (void)out_desc, (void)out;
  (void)attr, (void)engine, (void)compile, (void)path, (void)stream;
  return host_fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "CANN operator %s is not implemented", type);
}
