/* The order of instructions: what flags and barriers say of it, and an error for what they leave to chance.
 *
 * The scalar unit issues instructions in program order; each waits in the queue of its pipe, and pipes run beside each
 * other (AscendNPU-IR, AutoSync.md). Only this orders them: set_flag takes effect when all before it in its pipe have
 * finished, wait_flag holds back all after it in its pipe, pipe_barrier holds back a pipe until what it was given has
 * finished; and an instruction is not issued before the scalar unit is done waiting. So each pipe has a clock: the last instruction of every pipe, itself included, that has certainly finished
 * before its next one begins. Instructions carry numbers that grow through all programs; each byte of the unified
 * buffer remembers who wrote it last, and which instruction of each pipe read it last.
 *
 * A reader must know that the writer has finished; a writer, that the readers of other pipes and the last writer have.
 * In one pipe an earlier read needs no barrier before a later write: operands are fetched in order. */
#include "core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { EVENTS = 16, RECENT = 1 << 16, PENDING = 4096, FLAGS_SET = 8, SITES = 1 << 16 };
typedef struct { uint32_t finished[PIPES]; } point; /* per pipe: its last instruction that is over */
typedef struct { point set[FLAGS_SET]; int count; } flag;
typedef struct { const char *at; int64_t pitch; uint32_t bursts, bytes, number; bool writes; } span;

static const char *const pipe_names[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "ALL"};
static char buffer[UB_BYTES] __attribute__((aligned(512)));
static uint32_t written[UB_BYTES], read_by[PIPES][UB_BYTES];
static const char *recent[RECENT]; /* names of the last instructions */
static uint32_t number, started; /* the current instruction's, its pipe in the last three bits; the last of the program before */
static uint32_t issued[PIPES];
static point known[PIPES];
static flag flags[PIPES][PIPES][EVENTS];
static span pending[PENDING];
static int pending_count;
static bool ignored[SITES]; /* for tests: the flag or barrier in that line of the program orders nothing */
static bool lenient, strict; /* a kernel that is known to race is let run, unless somebody wants to see it */
static sigjmp_buf *escape;
static char message[512];

void *core_buffer(void) { return buffer; }
bool core_in_buffer(const void *at) { return (char *)at >= buffer && (char *)at < buffer + UB_BYTES; }
const char *core_message(void) { return message; }
void core_escape_to(sigjmp_buf *where) { escape = where; }
void core_check_all(bool on) { strict = on; }
void core_ignore(uint32_t site, bool on) { ignored[site % SITES] = on; }

void core_fail(const char *format, ...) {
  va_list more;
  va_start(more, format);
  vsnprintf(message, sizeof message, format, more);
  va_end(more);
  if (escape) siglongjmp(*escape, 2);
  fprintf(stderr, "%s\n", message);
  abort();
}

/* A program begins: everything before it is over, and nothing in the unified buffer is its own. */
void core_start_order(bool races) {
  lenient = races && !strict;
  if (number > UINT32_MAX / 2) {
    memset(written, 0, sizeof written), memset(read_by, 0, sizeof read_by);
    number = 0;
  }
  started = number;
  memset(flags, 0, sizeof flags);
  for (int p = 0; p < PIPES; p++)
    for (int q = issued[p] = started, r = 0; r < PIPES; r++) known[p].finished[r] = q;
  pending_count = 0;
}

/* A flag that is still set would release the next program's first wait. */
void core_end_order(void) {
  for (int a = 0; a < PIPES; a++)
    for (int b = 0; b < PIPES; b++)
      for (int e = 0; e < EVENTS; e++)
        if (flags[a][b][e].count)
          core_fail("the flag %s -> %s, event %d, is still set at the program's end", pipe_names[a], pipe_names[b], e);
}

static pipe_id pipe_of(uint32_t instruction) { return instruction & 7; }
static pipe_id current(void) { return pipe_of(number); }

/* Its name, while it is remembered. */
static const char *name_of(uint32_t instruction) {
  return (number >> 3) - (instruction >> 3) < RECENT ? recent[(instruction >> 3) % RECENT] : "an instruction";
}

void core_begin(const char *name, pipe_id pipe) {
  number = ((number >> 3) + 1) << 3 | pipe;
  recent[(number >> 3) % RECENT] = name;
  issued[pipe] = number;
  /* The scalar unit issued it, so whatever that unit has waited for is over; its own accesses may still be under way. */
  for (int p = PIPE_V; p < PIPES; p++)
    if (known[pipe].finished[p] < known[PIPE_S].finished[p]) known[pipe].finished[p] = known[PIPE_S].finished[p];
  core_name(name, pipe);
}

static void unordered(const char *what, uint32_t earlier, const char *where, long at, size_t bytes) {
  if (lenient) return;
  core_fail("order: %s (pipe %s) %s %zu bytes at %s%#lx, with no flag or barrier after %s (pipe %s), instruction %u of the "
            "program and %u", name_of(number), pipe_names[current()], what, bytes, where, at, name_of(earlier),
            pipe_names[pipe_of(earlier)], (number >> 3) - (started >> 3), (earlier >> 3) - (started >> 3));
}

/* Whether instruction `earlier` has finished before the current one begins; the scalar unit itself waits for each. */
static inline bool over(uint32_t earlier) {
  if (earlier <= started) return true;
  pipe_id pipe = pipe_of(earlier), here = current();
  return earlier <= known[here].finished[pipe] || (pipe == PIPE_S && here == PIPE_S);
}

static long offset(const void *at, size_t bytes, const char *what) {
  long from = (const char *)at - buffer;
  if (from < 0 || from + bytes > UB_BYTES)
    core_fail("%s %s %zu bytes at %ld, and the unified buffer has %d", name_of(number), what, bytes, from, UB_BYTES);
  return from;
}

/* How many of the first of `count` numbers are the same: most often all. */
static size_t alike(const uint32_t *numbers, size_t count) {
  size_t i = 1;
  if (!memcmp(numbers, numbers + 1, (count - 1) * sizeof *numbers)) return count;
  while (numbers[i] == numbers[0]) i++;
  return i;
}

static void mark(uint32_t *numbers, size_t count) {
  for (size_t i = 0; i < count; i++) numbers[i] = number;
}

const void *core_peek(const void *at, size_t bytes) {
  long from = offset(at, bytes, "reads");
  for (size_t i = 0, same; i < bytes; i += same) {
    uint32_t writer = written[from + i];
    same = alike(written + from + i, bytes - i);
    if (writer != number && !over(writer)) unordered("reads", writer, "UB ", from + i, bytes - i);
  }
  mark(read_by[current()] + from, bytes);
  return at;
}

bool core_known(const void *at, size_t bytes) {
  long from = offset(at, bytes, "reads");
  for (size_t i = 0, same; i < bytes; i += same) {
    if (written[from + i] <= started) return false;
    same = alike(written + from + i, bytes - i);
  }
  return true;
}

const void *core_read(const void *at, size_t bytes) {
  if (!core_known(at, bytes))
    core_fail("%s (pipe %s) uses bytes of the unified buffer at %ld to %ld that nobody wrote", name_of(number),
              pipe_names[current()], (long)((const char *)at - buffer), (long)((const char *)at - buffer + bytes - 1));
  return core_peek(at, bytes);
}

void core_forget(void *at, size_t bytes) {
  memset(written + offset(at, bytes, "writes"), 0, bytes * sizeof *written);
}

size_t core_written(const void *at, size_t bytes) {
  long from = offset(at, bytes, "reads");
  for (size_t i = 0; i < bytes; i++)
    if (written[from + i] <= started) return i;
  return bytes;
}

void *core_write(void *at, size_t bytes) {
  long from = offset(at, bytes, "writes");
  for (size_t i = 0, same; i < bytes; i += same) {
    uint32_t writer = written[from + i];
    same = alike(written + from + i, bytes - i);
    if (writer != number && !over(writer)) unordered("writes over", writer, "UB ", from + i, bytes - i);
  }
  mark(written + from, bytes);
  for (pipe_id p = 0; p < PIPES; p++) {
    if (p == current()) continue;
    for (size_t i = 0, same; i < bytes; i += same) {
      uint32_t reader = read_by[p][from + i];
      same = alike(read_by[p] + from + i, bytes - i);
      if (!over(reader)) unordered("writes over what is still read:", reader, "UB ", from + i, bytes - i);
    }
  }
  return at;
}

/* Do two regular patterns of bursts in global memory share a byte? */
static const char *shared(const span *a, const span *b) {
  if (a->bursts > b->bursts) return shared(b, a);
  for (uint32_t i = 0; i < a->bursts; i++) {
    const char *from = a->at + i * a->pitch, *to = from + a->bytes;
    if (b->bursts == 1 || b->pitch <= 0) {
      for (uint32_t j = 0; j < b->bursts; j++) {
        const char *other = b->at + j * b->pitch;
        if (from < other + b->bytes && other < to) return from > other ? from : other;
      }
      continue;
    }
    int64_t j = from < b->at ? 0 : (from - b->at) / b->pitch; /* the last that begins no later than this one */
    for (; j < b->bursts && b->at + j * b->pitch < to; j++)
      if (from < b->at + j * b->pitch + b->bytes) return from > b->at + j * b->pitch ? from : b->at + j * b->pitch;
  }
  return NULL;
}

/* Everyone knows that it is over: nothing of it can be met again. */
static bool settled(const span *s) {
  pipe_id pipe = pipe_of(s->number);
  for (int p = 0; p < PIPES; p++)
    if (s->number > known[p].finished[pipe]) return false;
  return true;
}

void core_global(const void *at, uint32_t bursts, uint32_t bytes, int64_t pitch, bool writes) {
  span here = {at, pitch, bursts, bytes, number, writes};
  int kept = 0;
  for (int i = 0; i < pending_count; i++) {
    const span *other = &pending[i];
    if ((writes || other->writes) && !over(other->number) && pipe_of(other->number) != current()) {
      const char *common = shared(&here, other);
      if (common) unordered(writes ? "writes" : "reads", other->number, "global memory ", (long)common, bytes);
    }
    if (!settled(other)) pending[kept++] = *other;
  }
  if (kept == PENDING) memmove(pending, pending + 1, --kept * sizeof *pending);
  pending[kept++] = here;
  pending_count = kept;
}

static void merge(point *into, const point *from) {
  for (int p = 0; p < PIPES; p++)
    if (into->finished[p] < from->finished[p]) into->finished[p] = from->finished[p];
}

static flag *checked(uint64_t from, uint64_t to, uint64_t event, const char *what) {
  if (from >= PIPES || to >= PIPES || event >= EVENTS)
    core_fail("%s: pipes %lu -> %lu, event %lu: there is no such flag", what, (long)from, (long)to, (long)event);
  return &flags[from][to][event];
}

void core_set_flag(uint64_t from, uint64_t to, uint64_t event, uint32_t site) {
  flag *f = checked(from, to, event, "set_flag");
  if (f->count == FLAGS_SET) core_fail("the flag %s -> %s, event %lu, is set %d times and never waited for", pipe_names[from], pipe_names[to], (long)event, FLAGS_SET);
  point now = {0};
  if (!ignored[site % SITES]) now = known[from], now.finished[from] = issued[from];
  f->set[f->count++] = now;
  core_flagged(DID_SET, from, to, event, site);
}

void core_wait_flag(uint64_t from, uint64_t to, uint64_t event, uint32_t site) {
  flag *f = checked(from, to, event, "wait_flag");
  if (!f->count) core_fail("pipe %s waits for ever: nobody sets the flag %s -> %s, event %lu", pipe_names[to], pipe_names[from], pipe_names[to], (long)event);
  if (!ignored[site % SITES]) merge(&known[to], &f->set[0]);
  memmove(f->set, f->set + 1, --f->count * sizeof *f->set);
  core_flagged(DID_WAIT, from, to, event, site);
}

void core_pipe_barrier(uint64_t pipe, uint32_t site) {
  if (pipe > PIPE_ALL) core_fail("pipe_barrier: there is no pipe %lu", (long)pipe);
  core_flagged(DID_BARRIER, pipe, pipe, 0, site);
  if (ignored[site % SITES]) return;
  if (pipe != PIPE_ALL) {
    known[pipe].finished[pipe] = issued[pipe];
    return;
  }
  for (int p = 0; p < PIPES; p++) memcpy(known[p].finished, issued, sizeof issued);
}

void hivm_BARRIER(uint64_t pipe) { core_pipe_barrier(pipe, 0); }
void hivm_SET_FLAG_IMM(uint64_t from, uint64_t to, uint64_t event) { core_set_flag(from, to, event, 0); }
void hivm_WAIT_FLAG_IMM(uint64_t from, uint64_t to, uint64_t event) { core_wait_flag(from, to, event, 0); }
