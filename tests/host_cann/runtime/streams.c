/* Streams are queues of tasks that run, in order, when somebody waits: the laziest device there can be. A missing
 * synchronisation then reads stale data every time, rather than once in a while as on hardware. No threads: whoever
 * waits does the work, under the device's lock. */
#include "host.h"
#include <runtime/runtime/rt.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x5354524d };
struct host_stream {
  int magic, id;
  host_task *first, **end;
  uint64_t submitted, done;
  host_graph *graph; /* where tasks go while the stream is captured */
  host_tasks *aside; /* where they go, before that, in a task group and in its update */
  host_stream *next;
};
static host_stream default_stream = {.magic = MAGIC, .end = &default_stream.first};
static host_stream *streams = &default_stream;
static int next_id, device_fault;

int host_device_fault(void) { return device_fault; }
void host_set_device_fault(int code) { device_fault = code; }
uint64_t host_submitted(const host_stream *s) { return s->submitted; }
uint64_t host_done(const host_stream *s) { return s->done; }
host_graph *host_stream_graph(const host_stream *s) { return s->graph; }
void host_set_stream_graph(host_stream *s, host_graph *graph) { s->graph = graph; }
host_tasks *host_stream_aside(const host_stream *s) { return s->aside; }
void host_set_stream_aside(host_stream *s, host_tasks *tasks) { s->aside = tasks; }
void host_leave_graph(const host_graph *graph) {
  for (host_stream *s = streams; s; s = s->next)
    if (s->graph == graph) s->graph = NULL;
}

host_stream *host_stream_of(aclrtStream handle) {
  host_stream *s = handle ? handle : &default_stream;
  if (s->magic == MAGIC) return s;
  host_fail(ACL_ERROR_RT_PARAM_INVALID, "%p is no stream, or was destroyed", handle);
  return NULL;
}

void *host_new_task(size_t size, int (*run)(host_task *)) {
  host_task *task = calloc(1, size);
  task->run = run;
  task->size = size;
  return task;
}

static void drop(host_task *task) {
  if (task->drop) task->drop(task);
  free(task);
}

/* A fault stays: after one, the device answers everything with it, as an Ascend device does until it is reset. */
int host_submit(host_stream *s, host_task *task) {
  HOST_LOCKED;
  if (!s || device_fault) {
    drop(task);
    return s ? device_fault : ACL_ERROR_RT_PARAM_INVALID;
  }
  if (s->aside) {
    host_append(s->aside, task);
    return 0;
  }
  if (s->graph) {
    host_record(s->graph, task);
    return 0;
  }
  *s->end = task;
  s->end = &task->next;
  s->submitted++;
  return 0;
}

int host_drain(host_stream *s, uint64_t upto) {
  HOST_LOCKED;
  while (s->done < upto && s->first) {
    host_task *task = s->first;
    s->first = task->next;
    if (!s->first) s->end = &s->first;
    int code = device_fault ? device_fault : task->run(task);
    if (code && !device_fault) device_fault = code;
    s->done++;
    drop(task);
  }
  return device_fault;
}

int host_drain_all(void) {
  HOST_LOCKED;
  for (host_stream *s = streams; s; s = s->next) host_drain(s, s->submitted);
  return device_fault;
}

static int create(aclrtStream *out) {
  HOST_LOCKED;
  host_stream *s = calloc(1, sizeof *s);
  *s = (host_stream){.magic = MAGIC, .id = ++next_id, .next = streams};
  s->end = &s->first;
  streams = s;
  *out = s;
  return 0;
}

static int destroy(aclrtStream handle) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(handle);
  if (!s) return ACL_ERROR_RT_PARAM_INVALID;
  int code = host_drain(s, s->submitted);
  for (host_stream **p = &streams; *p; p = &(*p)->next)
    if (*p == s) {
      *p = s->next;
      break;
    }
  s->magic = 0; /* not freed: a use after this is answered with an error rather than undefined behaviour */
  return code;
}

static int synchronize(aclrtStream handle) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(handle);
  if (!s) return ACL_ERROR_RT_PARAM_INVALID;
  int refused = host_refuse_in_capture("a stream synchronisation");
  return refused ? refused : host_drain(s, s->submitted);
}

static int synchronize_device(void) {
  int refused = host_refuse_in_capture("a device synchronisation");
  return refused ? refused : host_drain_all();
}

aclError aclrtCreateStream(aclrtStream *s) { return create(s); }
aclError aclrtCreateStreamWithConfig(aclrtStream *s, uint32_t priority, uint32_t flag) { (void)priority, (void)flag; return create(s); }
aclError aclrtDestroyStream(aclrtStream s) { return destroy(s); }
aclError aclrtDestroyStreamForce(aclrtStream s) { return destroy(s); }
aclError aclrtSynchronizeStream(aclrtStream s) { return synchronize(s); }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream s, int32_t ms) { (void)ms; return synchronize(s); }
aclError aclrtSynchronizeDevice(void) { return synchronize_device(); }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t ms) { (void)ms; return synchronize_device(); }
rtError_t rtStreamCreate(rtStream_t *s, int32_t priority) { (void)priority; return create(s); }
rtError_t rtStreamDestroy(rtStream_t s) { return destroy(s); }
rtError_t rtStreamSynchronize(rtStream_t s) { return synchronize(s); }

/* Asking is a step of progress, so that a loop that polls ends, but the first answer after new work is "not yet". */
aclError aclrtStreamQuery(aclrtStream handle, aclrtStreamStatus *status) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(handle);
  if (!s) return ACL_ERROR_RT_PARAM_INVALID;
  *status = s->done < s->submitted ? ACL_STREAM_STATUS_NOT_READY : ACL_STREAM_STATUS_COMPLETE;
  return host_drain(s, s->done + 1);
}

aclError aclrtStreamGetId(aclrtStream handle, int32_t *id) {
  host_stream *s = host_stream_of(handle);
  if (!s) return ACL_ERROR_RT_PARAM_INVALID;
  *id = s->id;
  return 0;
}

typedef struct { host_task task; void (*function)(void *); void *argument; } callback_task;

static int run_callback(host_task *task) {
  callback_task *c = (callback_task *)task;
  c->function(c->argument);
  return 0;
}

aclError aclrtLaunchHostFunc(aclrtStream handle, aclrtHostFunc function, void *argument) {
  callback_task *c = host_new_task(sizeof *c, run_callback);
  c->function = function;
  c->argument = argument;
  return host_submit(host_stream_of(handle), &c->task);
}
