/* ACL graphs: while a stream is captured its tasks go to a list instead of the stream; replay submits copies of them.
 * What would need the device's answer now (a synchronisation, a synchronous copy, loading a kernel) is refused and
 * spoils the capture, in every mode but "relaxed", as on the device. */
#include "host.h"
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x47525048 };
struct host_graph {
  int magic;
  host_stream *origin;
  aclmdlRICaptureMode mode;
  bool open, spoilt;
  host_tasks tasks;
};
static host_graph *capturing; /* the one open capture: the device allows more, nobody here needs them */

void host_record(host_graph *graph, host_task *task) { host_append(&graph->tasks, task); }

void host_invalidate(host_graph *graph, const char *why) {
  graph->spoilt = true;
  host_fail(ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED, "%s during graph capture", why);
}

int host_refuse_in_capture(const char *what) {
  HOST_LOCKED;
  if (!capturing || capturing->mode == ACL_MODEL_RI_CAPTURE_MODE_RELAXED) return 0;
  host_invalidate(capturing, what);
  return ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT;
}

aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode mode) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(stream);
  if (!s) return ACL_ERROR_RT_PARAM_INVALID;
  if (capturing) return host_fail(ACL_ERROR_RT_STREAM_CAPTURED, "a capture is already open");
  host_graph *graph = calloc(1, sizeof *graph);
  *graph = (host_graph){.magic = MAGIC, .origin = s, .mode = mode, .open = true};
  capturing = graph;
  host_set_stream_graph(s, graph);
  return 0;
}

aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI *model) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(stream);
  *model = NULL;
  if (!s || !capturing || capturing->origin != s)
    return host_fail(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "the capture was not begun on this stream");
  host_graph *graph = capturing;
  capturing = NULL;
  graph->open = false;
  host_leave_graph(graph);
  if (graph->spoilt) return host_fail(ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED, "the capture was invalidated");
  *model = graph;
  return 0;
}

aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus *status, aclmdlRI *model) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(stream);
  if (!s) return ACL_ERROR_RT_PARAM_INVALID;
  host_graph *graph = host_stream_graph(s);
  *status = !graph ? ACL_MODEL_RI_CAPTURE_STATUS_NONE
            : graph->spoilt ? ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED : ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE;
  if (model) *model = graph;
  return 0;
}

aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode *mode) {
  HOST_LOCKED;
  static aclmdlRICaptureMode current = ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;
  aclmdlRICaptureMode before = capturing ? capturing->mode : current;
  current = *mode;
  if (capturing) capturing->mode = *mode;
  *mode = before;
  return 0;
}

static host_graph *graph_of(aclmdlRI model) {
  host_graph *graph = model;
  if (graph && graph->magic == MAGIC && !graph->open) return graph;
  host_fail(ACL_ERROR_RT_PARAM_INVALID, "%p is no captured graph, or was destroyed", model);
  return NULL;
}

aclError aclmdlRIExecuteAsync(aclmdlRI model, aclrtStream stream) {
  HOST_LOCKED;
  host_graph *graph = graph_of(model);
  host_stream *s = host_stream_of(stream);
  if (!graph || !s) return ACL_ERROR_RT_PARAM_INVALID;
  int code = 0;
  for (host_task *task = graph->tasks.first; task && !code; task = task->next) {
    host_task *copy = memcpy(malloc(task->size), task, task->size);
    copy->next = NULL;
    copy->drop = NULL; /* what the task owns belongs to the graph */
    code = host_submit(s, copy);
  }
  return code;
}

aclError aclmdlRIDestroy(aclmdlRI model) {
  HOST_LOCKED;
  host_graph *graph = graph_of(model);
  if (!graph) return ACL_ERROR_RT_PARAM_INVALID;
  host_drain_all(); /* replays under way use what the graph owns */
  host_drop_all(&graph->tasks);
  graph->magic = 0;
  return 0;
}
