/* Task groups: a part of a graph whose tasks are replaced between replays, as attention's are, whose lengths grow.
 * The new tasks are submitted to another stream and replace the old ones when that stream gets there. The graph must
 * wait for that, with an external event, or it runs what it has. */
#include "host.h"
#include <stdlib.h>

enum { MAGIC = 0x54475250 };
typedef struct { int magic; host_tasks tasks; } group;
typedef struct { host_task task; group *group; } group_task;
typedef struct { host_task task; group *group; host_tasks tasks; } update_task;

void host_append(host_tasks *tasks, host_task *task) {
  *(tasks->first ? tasks->end : &tasks->first) = task;
  tasks->end = &task->next;
}

void host_drop_all(host_tasks *tasks) {
  for (host_task *task = tasks->first, *next; task; task = next) {
    next = task->next;
    if (task->drop) task->drop(task);
    free(task);
  }
  tasks->first = NULL;
}

static int run_group(host_task *task) {
  int code = 0;
  for (host_task *t = ((group_task *)task)->group->tasks.first; t && !code; t = t->next) code = t->run(t);
  return code;
}

static void drop_group(host_task *task) { /* with its graph */
  group *g = ((group_task *)task)->group;
  host_drop_all(&g->tasks);
  g->magic = 0; /* not freed: its handle may live longer */
}

static int run_update(host_task *task) {
  update_task *u = (update_task *)task;
  if (u->group->magic != MAGIC) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "update of a task group whose graph was destroyed");
  host_drop_all(&u->group->tasks);
  u->group->tasks = u->tasks;
  u->tasks.first = NULL;
  return 0;
}

static void drop_update(host_task *task) { host_drop_all(&((update_task *)task)->tasks); }

aclError aclmdlRICaptureTaskGrpBegin(aclrtStream stream) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(stream);
  if (!s || !host_stream_graph(s) || host_stream_aside(s))
    return host_fail(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "a task group begins in a capture, and outside other groups");
  group_task *t = host_new_task(sizeof *t, run_group);
  t->task.drop = drop_group;
  t->group = calloc(1, sizeof *t->group);
  t->group->magic = MAGIC;
  host_record(host_stream_graph(s), &t->task);
  host_set_stream_aside(s, &t->group->tasks);
  return 0;
}

aclError aclmdlRICaptureTaskGrpEnd(aclrtStream stream, aclrtTaskGrp *handle) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(stream);
  if (!s || !host_stream_graph(s) || !host_stream_aside(s))
    return host_fail(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "the end of a task group that was not begun");
  *handle = (char *)host_stream_aside(s) - offsetof(group, tasks);
  host_set_stream_aside(s, NULL);
  return 0;
}

aclError aclmdlRICaptureTaskUpdateBegin(aclrtStream stream, aclrtTaskGrp handle) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(stream);
  group *g = handle;
  if (!g || g->magic != MAGIC) return host_fail(ACL_ERROR_RT_PARAM_INVALID, "%p is no task group", handle);
  if (!s || host_stream_graph(s) || host_stream_aside(s))
    return host_fail(ACL_ERROR_RT_STREAM_CAPTURED, "an update begins outside captures and other updates");
  update_task *u = host_new_task(sizeof *u, run_update);
  u->task.drop = drop_update;
  u->group = g;
  host_set_stream_aside(s, &u->tasks);
  return 0;
}

aclError aclmdlRICaptureTaskUpdateEnd(aclrtStream stream) {
  HOST_LOCKED;
  host_stream *s = host_stream_of(stream);
  if (!s || host_stream_graph(s) || !host_stream_aside(s))
    return host_fail(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "the end of an update that was not begun");
  update_task *u = (update_task *)((char *)host_stream_aside(s) - offsetof(update_task, tasks));
  host_set_stream_aside(s, NULL);
  return host_submit(s, &u->task);
}

/* Whether what is submitted to this stream is kept instead of run: the CPU's operators ask. */
int host_cann_keeps_tasks(aclrtStream stream) {
  host_stream *s = host_stream_of(stream);
  return s && (host_stream_graph(s) || host_stream_aside(s));
}
