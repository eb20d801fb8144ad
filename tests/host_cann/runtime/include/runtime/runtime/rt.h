/* The runtime declarations that triton-ascend's launcher compiles against. The wheels bring ACL's headers but not
 * these, so they are declared here as the launcher's source uses them. */
#pragma once
#include <profiling/aprof_pub.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#ifdef __cplusplus
extern "C" {
#endif
#define MSPROF_GE_TASK_TYPE_AI_CORE 0
#define MSPROF_GE_TASK_TYPE_AIV 66
#define RT_ERROR_NONE 0
#define RT_DEV_BINARY_MAGIC_ELF 0x43554245U
#define RT_DEV_BINARY_MAGIC_ELF_AIVEC 0x41415246U
#define RT_MEMORY_HBM 2
#define RT_MEMORY_HOST 0x81
typedef int32_t rtError_t;
typedef void *rtStream_t;
typedef struct { uint32_t magic, version; const void *data; uint64_t length; } rtDevBinary_t;
typedef enum {
  RT_MEMCPY_HOST_TO_HOST,
  RT_MEMCPY_HOST_TO_DEVICE,
  RT_MEMCPY_DEVICE_TO_HOST,
  RT_MEMCPY_DEVICE_TO_DEVICE
} rtMemcpyKind_t;
typedef enum {
  RT_LIMIT_TYPE_LOW_POWER_TIMEOUT,
  RT_LIMIT_TYPE_SIMT_WARP_STACK_SIZE,
  RT_LIMIT_TYPE_SIMT_DVG_WARP_STACK_SIZE,
  RT_LIMIT_TYPE_STACK_SIZE
} rtLimitType_t;
rtError_t rtSetDevice(int32_t);
rtError_t rtDevBinaryRegister(const rtDevBinary_t *, void **handle);
rtError_t rtFunctionRegister(void *handle, const void *stub, const char *stub_name, const void *name, uint32_t mode);
rtError_t rtKernelLaunch(const void *stub, uint32_t blocks, void *args, uint32_t size, void *desc, rtStream_t);
rtError_t rtGetSocVersion(char *, uint32_t size);
rtError_t rtGetAiCoreCount(uint32_t *);
rtError_t rtGetC2cCtrlAddr(uint64_t *address, uint32_t *length);
rtError_t rtStreamCreate(rtStream_t *, int32_t priority);
rtError_t rtStreamDestroy(rtStream_t);
rtError_t rtStreamSynchronize(rtStream_t);
rtError_t rtMallocHost(void **, uint64_t size, uint32_t kind);
rtError_t rtFreeHost(void *);
rtError_t rtMalloc(void **, uint64_t size, uint32_t kind, uint16_t module);
rtError_t rtFree(void *);
rtError_t rtMemcpy(void *to, uint64_t room, const void *from, uint64_t size, rtMemcpyKind_t);
rtError_t rtDeviceSetLimit(int32_t device, rtLimitType_t, uint32_t value);
#ifdef __cplusplus
}
#endif
