/* Device and pinned host memory, each allocation alone between unmapped guard pages and on record, so that freeing
 * twice, copying past an end and a kernel leaving its tensors are noticed and can be named. Freed memory stays
 * unmapped in a quarantine for a while: using it is noticed too. */
#include "host.h"
#include <runtime/runtime/rt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 512, PAGE = 4096, CANARY = 0xA5 };
/* Address space only, and a lot of it: an offset that overflowed 32 bits must land here rather than in the host's own
 * memory, where the kernel would do silent damage. */
static const size_t GUARD = 8ull << 30;
static const size_t QUARANTINE = 1024; /* freed allocations remembered */

typedef struct {
  host_allocation seen;
  char *mapping;
  size_t mapped;
  bool range; /* addresses that mapping.c maps memory to: live while it does */
} record;
static record *records;
static size_t count, capacity, device_bytes, dead;

static size_t up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }
static size_t slack(const host_allocation *a) { return up(a->size, ALIGN) - a->size; }
static size_t lead(const record *r) { return r->seen.base - (r->mapping + GUARD); } /* of the first page, unused */

static size_t intact(const char *at, size_t n) { /* how many bytes of the pattern are, from the start */
  size_t i = 0;
  while (i < n && (unsigned char)at[i] == CANARY) i++;
  return i;
}

static void draw_pattern(const record *r) {
  memset(r->seen.base + r->seen.size, CANARY, slack(&r->seen));
  memset(r->mapping + GUARD, CANARY, lead(r));
}

static void forget_oldest_dead(void) {
  for (size_t i = 0; i < count; i++)
    if (!records[i].seen.live && !records[i].range) {
      munmap(records[i].mapping, records[i].mapped);
      memmove(records + i, records + i + 1, (--count - i) * sizeof *records);
      dead--;
      return;
    }
}

/* A new record of ``body`` bytes, whole pages that nobody may touch yet, between guards; NULL if the host has no room. */
static record *place(size_t body) {
  size_t mapped = body + 2 * GUARD;
  char *mapping = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return NULL;
  if (count == capacity) records = realloc(records, (capacity = capacity * 2 + 64) * sizeof *records);
  record *r = &records[count++];
  *r = (record){.mapping = mapping, .mapped = mapped};
  return r;
}

int host_count_device_bytes(long more) {
  if (more > 0 && device_bytes + (size_t)more > (size_t)host_current_chip()->hbm_gib << 30)
    return host_fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "out of device memory: %zu bytes in use, %ld wanted", device_bytes, more);
  device_bytes += (size_t)more;
  return 0;
}

static int allocate(void **out, size_t size, bool device) {
  HOST_LOCKED;
  if (!size) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "allocation of 0 bytes");
  int full = host_count_device_bytes(device ? (long)size : 0);
  if (full) return full;
  size_t body = up(up(size, ALIGN), PAGE);
  record *r = place(body);
  if (!r || mprotect(r->mapping + GUARD, body, PROT_READ | PROT_WRITE))
    return host_fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no %zu bytes left", size);
  /* The end, not the start, touches the guard: running past it is the common mistake. */
  r->seen = (host_allocation){r->mapping + GUARD + body - up(size, ALIGN), size, true, device};
  draw_pattern(r);
  *out = r->seen.base;
  return 0;
}

static record *find(const void *address) {
  for (size_t i = count; i-- > 0;) /* newest first: a quarantined range is older than its re-use */
    if ((const char *)address >= records[i].mapping && (const char *)address < records[i].mapping + records[i].mapped)
      return &records[i];
  return NULL;
}

static void bury(record *r) {
  r->seen.live = false;
  if (++dead > QUARANTINE) forget_oldest_dead();
}

static int release(void *address, bool device) {
  int fault = host_drain_all(); /* as the device does: work that still uses the memory comes first */
  HOST_LOCKED;
  record *r = find(address);
  if (!r || r->range || r->seen.base != address || r->seen.device != device)
    return host_fail(ACL_ERROR_RT_MEMORY_FREE, "free of %p, which is %s", address, host_describe(address).text);
  if (!r->seen.live)
    return host_fail(ACL_ERROR_RT_MEMORY_FREE, "double free of %p (%zu bytes)", address, r->seen.size);
  int overrun = host_check_canaries("before it was freed");
  mprotect(r->mapping, r->mapped, PROT_NONE);
  madvise(r->mapping, r->mapped, MADV_DONTNEED);
  device_bytes -= device ? r->seen.size : 0;
  bury(r);
  return fault ? fault : overrun;
}

int host_reserve(void **out, size_t size) {
  HOST_LOCKED;
  record *r = place(size);
  if (!r) return host_fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no addresses for %zu bytes left", size);
  r->seen = (host_allocation){r->mapping + GUARD, size, false, true};
  r->range = true;
  *out = r->seen.base;
  return 0;
}

static record *range_at(void *address) {
  record *r = find(address);
  if (r && r->range && r->seen.base == address) return r;
  host_fail(ACL_ERROR_RT_PARAM_INVALID, "%p is no reserved range, but %s", address, host_describe(address).text);
  return NULL;
}

int host_release_range(void *address) {
  HOST_LOCKED;
  record *r = range_at(address);
  if (!r) return ACL_ERROR_RT_PARAM_INVALID;
  if (r->seen.live) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "memory is still mapped to the range that is released");
  r->range = false;
  bury(r);
  return 0;
}

/* Memory of ``file`` at a range of ``size`` bytes, or none any more if ``file`` is negative. */
int host_back_range(void *address, size_t size, int file) {
  HOST_LOCKED;
  record *r = range_at(address);
  if (!r) return ACL_ERROR_RT_PARAM_INVALID;
  bool maps = file >= 0;
  if (r->seen.live == maps || (maps && size != r->seen.size))
    return host_fail(ACL_ERROR_RT_PARAM_INVALID, "%s a range of %zu bytes to which %s mapped", maps ? "mapping to" : "unmapping", r->seen.size,
                     r->seen.live ? "memory is" : "nothing is");
  int kind = maps ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  mmap(address, r->seen.size, maps ? PROT_READ | PROT_WRITE : PROT_NONE, kind | MAP_FIXED, file, 0);
  r->seen.live = maps;
  return 0;
}

const host_allocation *host_find(const void *address) {
  record *r = find(address);
  return r && (char *)address >= r->seen.base && (char *)address <= r->seen.base + r->seen.size ? &r->seen : NULL;
}

host_text host_describe(const void *address) {
  host_text text;
  record *r = find(address);
  if (!r) {
    snprintf(text.text, sizeof text.text, "in no allocation");
    return text;
  }
  const char *kind = r->seen.live ? "an allocation" : r->range ? "a range without memory" : "a freed allocation";
  long before = r->seen.base - (char *)address, past = (char *)address - (r->seen.base + r->seen.size);
  if (before > 0) snprintf(text.text, sizeof text.text, "%ld bytes before %s of %zu bytes", before, kind, r->seen.size);
  else if (past >= 0) snprintf(text.text, sizeof text.text, "%ld bytes past %s of %zu bytes", past, kind, r->seen.size);
  else snprintf(text.text, sizeof text.text, "byte %ld of %s of %zu bytes", -before, kind, r->seen.size);
  return text;
}

int host_check_range(const char *what, const void *address, size_t size, bool must_be_device) {
  const host_allocation *a = host_find(address);
  if (!a && !must_be_device && !find(address)) return 0; /* ordinary host memory */
  if (a && a->live && (a->device || !must_be_device) && (char *)address + size <= a->base + a->size) return 0;
  return host_fail(ACL_ERROR_RT_PARAM_INVALID, "%s: %zu bytes at %p, which is %s", what, size, address,
                   host_describe(address).text);
}

/* The bytes between an allocation and its guard pages: a write there breaks the pattern. */
int host_check_canaries(const char *after) {
  for (size_t i = 0; i < count; i++) {
    record *r = &records[i];
    if (!r->seen.live) continue;
    size_t size = r->seen.size, past = intact(r->seen.base + size, slack(&r->seen));
    size_t before = lead(r) - intact(r->mapping + GUARD, lead(r));
    bool over = past < slack(&r->seen);
    if (!over && !before) continue;
    draw_pattern(r);
    return host_fail(ACL_ERROR_RT_VECTOR_CORE_TRAP_WRITE_OVERFLOW, "a write %zu bytes %s an allocation of %zu bytes, %s",
                     over ? past : before, over ? "past" : "before", size, after);
  }
  return 0;
}

aclError aclrtMalloc(void **p, size_t n, aclrtMemMallocPolicy policy) { (void)policy; return allocate(p, n, true); }
aclError aclrtMallocAlign32(void **p, size_t n, aclrtMemMallocPolicy policy) { return aclrtMalloc(p, n, policy); }
aclError aclrtFree(void *p) { return release(p, true); }
aclError aclrtMallocHost(void **p, size_t n) { return allocate(p, n, false); }
aclError aclrtFreeHost(void *p) { return release(p, false); }
rtError_t rtMalloc(void **p, uint64_t n, uint32_t kind, uint16_t module) { (void)kind, (void)module; return allocate(p, n, true); }
rtError_t rtFree(void *p) { return release(p, true); }
rtError_t rtMallocHost(void **p, uint64_t n, uint32_t kind) { (void)kind; return allocate(p, n, false); }
rtError_t rtFreeHost(void *p) { return release(p, false); }

aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t *free_bytes, size_t *total) {
  (void)attr;
  HOST_LOCKED;
  *total = (size_t)host_current_chip()->hbm_gib << 30;
  *free_bytes = *total - device_bytes;
  return 0;
}
