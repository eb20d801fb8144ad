/* Virtual memory: address ranges that are reserved once, and physical memory that is mapped there and taken away again,
 * as in sleep mode. A range is an allocation that lives while something is mapped: a kernel that touches it meanwhile is
 * caught as elsewhere. Limit: a mapping covers its whole range. torch-npu's expandable segments map parts: before it uses
 * them it asks for 512 bytes, and is told that there are no ranges. */
#define _GNU_SOURCE
#include "host.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GRANULE = 2 << 20, MAGIC = 0x50485953 };
typedef struct { int magic, file; size_t size; } physical;

aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp *prop, aclrtMemGranularityOptions option, size_t *granule) {
  (void)prop, (void)option;
  *granule = GRANULE;
  return 0;
}

aclError aclrtReserveMemAddress(void **address, size_t size, size_t alignment, void *wanted, uint64_t flags) {
  (void)alignment, (void)flags;
  if (wanted || !size || size % GRANULE)
    return host_fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "a range of %zu bytes at %p is not implemented", size, wanted);
  return host_reserve(address, size);
}

aclError aclrtReleaseMemAddress(void *address) { return host_release_range(address); }

aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t size, const aclrtPhysicalMemProp *prop, uint64_t flags) {
  (void)prop, (void)flags;
  HOST_LOCKED;
  int code = host_count_device_bytes((long)size);
  if (code) return code;
  physical *p = calloc(1, sizeof *p);
  *p = (physical){MAGIC, memfd_create("host_cann_physical", MFD_CLOEXEC), size};
  void *bytes = ftruncate(p->file, (off_t)size) ? MAP_FAILED : mmap(NULL, size, PROT_WRITE, MAP_SHARED, p->file, 0);
  if (bytes == MAP_FAILED) return host_fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no %zu bytes left", size);
  memset(bytes, 0xFF, size); /* NaN: memory that was given back comes again with any bytes */
  munmap(bytes, size);
  *handle = (aclrtDrvMemHandle)p;
  return 0;
}

static physical *physical_of(aclrtDrvMemHandle handle) {
  physical *p = (physical *)handle;
  if (p && p->magic == MAGIC) return p;
  host_fail(ACL_ERROR_RT_PARAM_INVALID, "%p is no physical memory, or was freed", handle);
  return NULL;
}

aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  HOST_LOCKED;
  physical *p = physical_of(handle);
  if (!p) return ACL_ERROR_RT_PARAM_INVALID;
  close(p->file);
  p->magic = 0; /* not freed, so that a second time is noticed */
  return host_count_device_bytes(-(long)p->size);
}

aclError aclrtMapMem(void *address, size_t size, size_t offset, aclrtDrvMemHandle handle, uint64_t flags) {
  (void)flags;
  HOST_LOCKED;
  physical *p = physical_of(handle);
  if (!p) return ACL_ERROR_RT_PARAM_INVALID;
  if (offset || size != p->size) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "a part of physical memory is not implemented");
  return host_back_range(address, size, p->file);
}

aclError aclrtUnmapMem(void *address) {
  int fault = host_drain_all(); /* work that still uses the memory comes first */
  HOST_LOCKED;
  int code = host_back_range(address, 0, -1);
  return fault ? fault : code;
}
