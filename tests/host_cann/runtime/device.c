/* The calls around the work: initialisation, devices and their contexts, versions, options, profiling.
 *
 * There is one device, or as many as HOST_CANN_DEVICES says: then each is for a process of its own, since what a process
 * submits to one of its devices runs on the same queues and memory as what it submits to another. */
#include "host.h"
#include <runtime/runtime/rt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16 };
static __thread int current = -1;
static char contexts[MOST]; /* their addresses are the contexts */

aclError aclInit(const char *config) { (void)config; return 0; }
aclError aclFinalize(void) { return host_drain_all(); }
aclError aclrtGetDeviceCount(uint32_t *count) {
  const char *wanted = getenv("HOST_CANN_DEVICES");
  int number = wanted ? atoi(wanted) : 1;
  if (number < 1 || number > MOST) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "HOST_CANN_DEVICES=%s: 1 to %d", wanted, MOST);
  *count = number;
  return 0;
}

aclError aclrtSetDevice(int32_t device) {
  uint32_t count;
  aclError code = aclrtGetDeviceCount(&count);
  if (code) return code;
  if (device < 0 || device >= (int32_t)count)
    return host_fail(ACL_ERROR_RT_PARAM_INVALID, "device %d: there are %u, the first is number 0", device, count);
  current = device;
  return 0;
}
rtError_t rtSetDevice(int32_t device) { return aclrtSetDevice(device); }

aclError aclrtGetDevice(int32_t *device) { /* torch-npu asks before it sets one, and takes this code for "none yet" */
  *device = current < 0 ? 0 : current;
  return current < 0 ? ACL_ERROR_RT_CONTEXT_NULL : 0;
}

aclError aclrtResetDevice(int32_t device) {
  (void)device;
  host_drain_all();
  host_set_device_fault(0);
  current = -1;
  return 0;
}

aclError aclrtGetCurrentContext(aclrtContext *c) { *c = &contexts[current < 0 ? 0 : current]; return 0; }
aclError aclrtSetCurrentContext(aclrtContext c) {
  if ((char *)c < contexts || (char *)c >= contexts + MOST) return host_fail(ACL_ERROR_RT_CONTEXT_NULL, "%p is no context", c);
  current = (char *)c - contexts;
  return 0;
}
aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  *flags = 0;
  *active = current == device;
  return 0;
}

/* Options of CANN's operator compiler, which is not here to heed them. torch-npu reads their sizes at start-up. */
size_t aclGetCompileoptSize(aclCompileOpt option) { (void)option; return 2; }
aclError aclGetCompileopt(aclCompileOpt option, char *value, size_t size) {
  (void)option;
  snprintf(value, size, "0");
  return 0;
}
aclError aclSetCompileopt(aclCompileOpt option, const char *value) { (void)option, (void)value; return 0; }

/* Determinism and the like: kept and given back. Everything here is deterministic whatever they say. */
static int64_t system_options[16];
static bool known(aclSysParamOpt option) { return (size_t)option < sizeof system_options / sizeof *system_options; }
aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  if (!known(option)) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtSetSysParamOpt: option %d", option);
  system_options[option] = value;
  return 0;
}
aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) {
  if (!known(option)) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtGetSysParamOpt: option %d", option);
  *value = system_options[option];
  return 0;
}
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
aclError aclrtCtxGetSysParamOpt(aclSysParamOpt option, int64_t *value) { return aclrtGetSysParamOpt(option, value); }
rtError_t rtDeviceSetLimit(int32_t device, rtLimitType_t type, uint32_t value) { (void)device, (void)type, (void)value; return 0; }

/* The profiler is never switched on here, so there is nothing for it to report. */
int32_t MsprofRegisterCallback(uint32_t module, ProfCommandHandle callback) { (void)module, (void)callback; return 0; }

/* Infinities and NaNs are kept, as on a 910B by default; saturating arithmetic is something else. */
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
  return mode == ACL_RT_OVERFLOW_MODE_INFNAN ? 0 : host_unimplemented("aclrtSetDeviceSatMode(saturation)");
}

/* Nothing here takes time on a device, so nothing times out. */
aclError aclrtSetOpExecuteTimeOut(uint32_t seconds) { (void)seconds; return 0; }
aclError aclrtSetOpWaitTimeout(uint32_t seconds) { (void)seconds; return 0; }

/* CANN's own log, into which torch-npu writes what it also raises. */
void aclAppLog(aclLogLevel level, const char *function, const char *file, uint32_t line, const char *format, ...) {
  (void)level, (void)function, (void)file, (void)line, (void)format;
}

/* A 310P can watch a stream for overflows, and torch-npu switches it on there. Nothing is watched here. */
aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag) { (void)stream, (void)flag; return 0; }
