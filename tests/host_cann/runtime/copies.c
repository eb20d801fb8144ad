/* Copies and fills, checked against the allocation table when they are submitted. */
#include "host.h"
#include <runtime/runtime/rt.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct { host_task task; void *to; const void *from; size_t size; void *staged; } copy_task;
typedef struct { host_task task; void *to; int value; size_t size; } fill_task;

static bool pinned(const void *p) { return host_find(p) != NULL; }

static int check(void *to, size_t room, const void *from, size_t size, int kind) {
  if (size > room) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "copy of %zu bytes into room for %zu", size, room);
  bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  int bad = host_check_range("copy from", from, size, from_device);
  return bad ? bad : host_check_range("copy to", to, size, to_device);
}

static int run_copy(host_task *task) {
  copy_task *c = (copy_task *)task;
  int bad = host_check_range("copy to", c->to, c->size, false);
  if (!bad && !c->staged) bad = host_check_range("copy from", c->from, c->size, false);
  if (!bad) memmove(c->to, c->from, c->size);
  return bad;
}

static void drop_copy(host_task *task) { free(((copy_task *)task)->staged); }

static int run_fill(host_task *task) {
  fill_task *f = (fill_task *)task;
  int bad = host_check_range("fill", f->to, f->size, true);
  if (!bad) memset(f->to, f->value, f->size);
  return bad;
}

static int copy_now(void *to, size_t room, const void *from, size_t size, int kind) {
  HOST_LOCKED;
  int bad = host_refuse_in_capture("a synchronous copy");
  if (!bad) bad = host_device_fault();
  if (!bad) bad = check(to, room, from, size, kind);
  if (!bad) memmove(to, from, size);
  return bad;
}

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind) {
  return copy_now(to, room, from, size, kind);
}

rtError_t rtMemcpy(void *to, uint64_t room, const void *from, uint64_t size, rtMemcpyKind_t kind) {
  return copy_now(to, room, from, size, kind);
}

/* For so long at most, or until a kernel is launched, whoever submits an asynchronous copy is kept waiting, and nobody
 * else: torch-npu's queue stands still behind one, and what does not go through the queue has its chance to overtake. */
static _Atomic int64_t held_until;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

void host_cann_hold_copies(int ms) { held_until = now_ms() + ms; }
bool host_cann_holds_copies(void) { return now_ms() < held_until; }
void host_release_copies(void) { held_until = 0; }

/* Pageable host memory may be gone when the stream gets here: a source is staged at once, and a copy into it waits,
 * as the driver does for memory it has not pinned. */
aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind, aclrtStream stream) {
  while (host_cann_holds_copies()) usleep(1000);
  HOST_LOCKED;
  int bad = check(to, room, from, size, kind);
  host_stream *s = host_stream_of(stream);
  if (bad || !s) return bad ? bad : ACL_ERROR_RT_PARAM_INVALID;
  copy_task *c = host_new_task(sizeof *c, run_copy);
  *c = (copy_task){.task = c->task, .to = to, .from = from, .size = size};
  if (!pinned(from) && !host_stream_graph(s)) {
    c->from = c->staged = memcpy(malloc(size), from, size);
    c->task.drop = drop_copy;
  }
  int code = host_submit(s, &c->task);
  return code || pinned(to) || host_stream_graph(s) ? code : host_drain(s, host_submitted(s));
}

aclError aclrtMemset(void *to, size_t room, int32_t value, size_t size) {
  HOST_LOCKED;
  int bad = host_refuse_in_capture("a synchronous fill");
  if (!bad && size > room) bad = host_fail(ACL_ERROR_RT_PARAM_INVALID, "fill of %zu bytes into room for %zu", size, room);
  if (!bad) bad = host_check_range("fill", to, size, true);
  if (!bad) memset(to, value, size);
  return bad;
}

aclError aclrtMemsetAsync(void *to, size_t room, int32_t value, size_t size, aclrtStream stream) {
  if (size > room) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "fill of %zu bytes into room for %zu", size, room);
  fill_task *f = host_new_task(sizeof *f, run_fill);
  *f = (fill_task){f->task, to, value, size};
  return host_submit(host_stream_of(stream), &f->task);
}
