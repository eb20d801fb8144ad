/* Events: a place in a stream. Waiting for one runs that stream up to the place, and no further. An external event is
 * waited for and reset by a graph, at each replay, and recorded by another stream. */
#include "host.h"
#include <stdlib.h>
#include <time.h>

enum { MAGIC = 0x45564e54 };
typedef struct {
  int magic;
  bool recorded, external, happened; /* happened: on the device, of an external event, since its last reset */
  host_stream *stream;
  uint64_t place;
  host_graph *graph; /* recorded in a capture: whoever waits for it joins the capture */
  struct timespec at;
} event;
typedef struct { host_task task; event *event; } mark_task;
typedef struct { host_task task; host_stream *stream; uint64_t place; } wait_task;

static event *event_of(aclrtEvent handle) {
  event *e = handle;
  if (e && e->magic == MAGIC) return e;
  host_fail(ACL_ERROR_RT_PARAM_INVALID, "%p is no event, or was destroyed", handle);
  return NULL;
}

static bool reached(const event *e) { return !e->recorded || e->graph || host_done(e->stream) >= e->place; }

static int run_mark(host_task *task) {
  clock_gettime(CLOCK_MONOTONIC, &((mark_task *)task)->event->at);
  return 0;
}

static int run_wait(host_task *task) {
  wait_task *w = (wait_task *)task;
  return host_drain(w->stream, w->place);
}

static int run_external_mark(host_task *task) {
  ((mark_task *)task)->event->happened = true;
  return 0;
}

static int run_external_wait(host_task *task) {
  event *e = ((mark_task *)task)->event;
  int code = e->happened || !e->recorded ? 0 : host_drain(e->stream, e->place);
  if (code || e->happened) return code;
  return host_fail(ACL_ERROR_RT_EVENT_NOT_COMPLETE, "a graph waits for an external event that nobody has recorded: the device would wait for ever");
}

static int run_reset(host_task *task) {
  ((mark_task *)task)->event->happened = false;
  return 0;
}

static int submit_of(event *e, host_stream *s, int (*run)(host_task *)) {
  mark_task *mark = host_new_task(sizeof *mark, run);
  mark->event = e;
  return host_submit(s, &mark->task);
}

static int create(aclrtEvent *out, uint32_t flag) {
  event *e = calloc(1, sizeof *e);
  *e = (event){.magic = MAGIC, .external = flag & ACL_EVENT_EXTERNAL};
  *out = e;
  return 0;
}
aclError aclrtCreateEventExWithFlag(aclrtEvent *out, uint32_t flag) { return create(out, flag); }
aclError aclrtCreateEventWithFlag(aclrtEvent *out, uint32_t flag) { return create(out, flag); }

aclError aclrtDestroyEvent(aclrtEvent handle) {
  event *e = event_of(handle);
  if (!e) return ACL_ERROR_RT_PARAM_INVALID;
  e->magic = 0; /* not freed: a task of a stream may still mark it */
  return 0;
}

aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream) {
  HOST_LOCKED;
  event *e = event_of(handle);
  host_stream *s = host_stream_of(stream);
  if (!e || !s) return ACL_ERROR_RT_PARAM_INVALID;
  e->recorded = true;
  e->stream = s;
  e->graph = host_stream_graph(s);
  if (e->graph && e->external) return host_fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "a graph that records an external event is not implemented");
  if (e->graph) return 0; /* a capture is one list in submission order, which keeps every dependency */
  int code = submit_of(e, s, e->external ? run_external_mark : run_mark);
  e->place = host_submitted(s);
  return code;
}

aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent handle) {
  HOST_LOCKED;
  event *e = event_of(handle);
  host_stream *s = host_stream_of(stream);
  if (!e || !s) return ACL_ERROR_RT_PARAM_INVALID;
  if (e->external) return submit_of(e, s, run_external_wait);
  if (!e->recorded) return 0;
  if (e->graph) {
    host_set_stream_graph(s, e->graph);
    return 0;
  }
  if (host_stream_graph(s)) return 0; /* work from before the capture is not part of it */
  wait_task *wait = host_new_task(sizeof *wait, run_wait);
  wait->stream = e->stream;
  wait->place = e->place;
  return host_submit(s, &wait->task);
}

aclError aclrtResetEvent(aclrtEvent handle, aclrtStream stream) {
  event *e = event_of(handle);
  if (!e) return ACL_ERROR_RT_PARAM_INVALID;
  if (e->external) return submit_of(e, host_stream_of(stream), run_reset);
  return 0; /* the next record overwrites the place; waits already submitted keep theirs */
}

aclError aclrtSynchronizeEvent(aclrtEvent handle) {
  HOST_LOCKED;
  event *e = event_of(handle);
  if (!e) return ACL_ERROR_RT_PARAM_INVALID;
  if (e->graph) return host_refuse_in_capture("an event synchronisation");
  return e->recorded ? host_drain(e->stream, e->place) : 0;
}

/* As with streams, asking is one step of progress and the first answer may be "not yet". */
static int query(aclrtEvent handle, bool *done) {
  HOST_LOCKED;
  event *e = event_of(handle);
  if (!e) return ACL_ERROR_RT_PARAM_INVALID;
  *done = reached(e);
  return *done ? 0 : host_drain(e->stream, host_done(e->stream) + 1);
}

aclError aclrtQueryEventStatus(aclrtEvent handle, aclrtEventRecordedStatus *status) {
  bool done = false;
  int code = query(handle, &done);
  *status = done ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return code;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent handle, aclrtEventWaitStatus *status) {
  bool done = false;
  int code = query(handle, &done);
  *status = done ? ACL_EVENT_WAIT_STATUS_COMPLETE : ACL_EVENT_WAIT_STATUS_NOT_READY;
  return code;
}

aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end) {
  event *a = event_of(start), *b = event_of(end);
  if (!a || !b) return ACL_ERROR_RT_PARAM_INVALID;
  if (!a->at.tv_sec || !b->at.tv_sec) return host_fail(ACL_ERROR_RT_EVENT_NOT_COMPLETE, "elapsed time of an event not reached");
  *ms = (b->at.tv_sec - a->at.tv_sec) * 1e3f + (b->at.tv_nsec - a->at.tv_nsec) * 1e-6f;
  return 0;
}
