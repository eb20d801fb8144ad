/* What the files of the host runtime share. Each file says in its first comment why it exists. */
#pragma once
#define _GNU_SOURCE
#include <acl/acl.h>
#include <acl/acl_op_compiler.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- errors.c --- */
int host_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int host_unimplemented(const char *symbol);

/* --- lock.c: one lock for the whole device; tasks run under it, so the host sees one device step at a time --- */
void host_lock(void);
void host_unlock(void);
static inline void host_unlock_at_return(int *unused) { (void)unused; host_unlock(); }
#define HOST_LOCKED host_lock(); __attribute__((cleanup(host_unlock_at_return), unused)) int locked_

/* --- chip.c --- */
typedef struct { const char *name, *soc_name; uint32_t cube_cores, vector_cores, l2_mib, hbm_gib; } host_chip;
const host_chip *host_current_chip(void);

/* --- memory.c --- */
typedef struct { char *base; size_t size; bool live, device; } host_allocation;
typedef struct { char text[240]; } host_text;
const host_allocation *host_find(const void *address);
int host_check_range(const char *what, const void *address, size_t size, bool must_be_device);
int host_check_canaries(const char *after);
host_text host_describe(const void *address);
int host_count_device_bytes(long more);
int host_reserve(void **out, size_t size);
int host_release_range(void *address);
int host_back_range(void *address, size_t size, int file);

/* --- streams.c: a stream is a queue of tasks that runs when somebody waits for it --- */
typedef struct host_stream host_stream;
typedef struct host_graph host_graph;
typedef struct host_task host_task;
struct host_task {
  int (*run)(host_task *task);
  void (*drop)(host_task *task); /* frees what the task owns; may be NULL */
  host_task *next;
  size_t size; /* of the whole object, so that a graph can copy a task */
};
typedef struct { host_task *first, **end; } host_tasks;
host_stream *host_stream_of(aclrtStream handle);
void *host_new_task(size_t size, int (*run)(host_task *));
int host_submit(host_stream *stream, host_task *task);
int host_drain(host_stream *stream, uint64_t upto);
int host_drain_all(void);
uint64_t host_submitted(const host_stream *stream);
uint64_t host_done(const host_stream *stream);
host_graph *host_stream_graph(const host_stream *stream);
void host_set_stream_graph(host_stream *stream, host_graph *graph);
void host_leave_graph(const host_graph *graph);
host_tasks *host_stream_aside(const host_stream *stream);
void host_set_stream_aside(host_stream *stream, host_tasks *tasks);
int host_device_fault(void);
void host_set_device_fault(int code);

/* --- tasks.c --- */
void host_append(host_tasks *tasks, host_task *task);
void host_drop_all(host_tasks *tasks);

/* --- launches.c --- */
void host_note_launch(const char *key, const int32_t grid[3]);
bool host_discards_launches(void);

/* --- copies.c --- */
void host_release_copies(void);

/* --- capture.c --- */
void host_record(host_graph *graph, host_task *task);
int host_refuse_in_capture(const char *what);
void host_invalidate(host_graph *graph, const char *why);
