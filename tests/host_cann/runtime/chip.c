/* Which chip this is, and what it says of itself. The table is generated from chips.py. */
#include "host.h"
#include <runtime/runtime/rt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const host_chip chips[] = {
#include "chips.inc"
};

const host_chip *host_current_chip(void) {
  const char *name = getenv("HOST_CANN_CHIP");
  if (!name) name = HOST_DEFAULT_CHIP;
  for (size_t i = 0; i < sizeof chips / sizeof *chips; i++)
    if (!strcmp(chips[i].name, name)) return &chips[i];
  fprintf(stderr, "host CANN: HOST_CANN_CHIP=%s is no chip; chips.py lists them\n", name);
  exit(2); /* too early for an error code: nothing above knows what to do without a chip */
}

const char *aclrtGetSocName(void) { return host_current_chip()->soc_name; }

rtError_t rtGetSocVersion(char *version, uint32_t size) {
  snprintf(version, size, "%s", host_current_chip()->soc_name);
  return 0;
}

rtError_t rtGetAiCoreCount(uint32_t *count) {
  *count = host_current_chip()->cube_cores;
  return 0;
}

aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo what, int64_t *value) {
  (void)device;
  const host_chip *chip = host_current_chip();
  switch (what) {
    case ACL_DEVICE_INFO_AI_CORE_NUM: *value = chip->cube_cores; return 0;
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM: *value = chip->vector_cores; return 0;
    case ACL_DEVICE_INFO_L2_SIZE: *value = (int64_t)chip->l2_mib << 20; return 0;
    default: return host_fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclGetDeviceCapability(%d) is not implemented", what);
  }
}
