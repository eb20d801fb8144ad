/* What a program did, as a list of events: what tests state as facts, and what the clock (scripts/model_ascend) turns
 * into time. Kept only while somebody watches. */
#include "core.h"
#include <stdlib.h>

typedef struct {
  const char *name; /* of the instruction; NULL for flags and barriers */
  uint64_t address; /* of a transfer, or of a scalar access: in global memory */
  int64_t pitch;    /* bytes from the beginning of one burst to that of the next, in global memory */
  uint32_t repeats; /* of a vector instruction: how often it took 256 bytes of its widest operand */
  uint32_t bursts, burst_bytes;
  uint32_t block;   /* the program's number in its grid */
  uint32_t site;    /* a flag's or barrier's line in the program; 0 in the vendor's library */
  uint8_t kind, pipe, to, event; /* did, pipe_id; of a flag: who waits, and which */
} event;

static event *events;
static size_t count, room;
static bool watching;
static uint32_t block;
static const char *name;
static pipe_id pipe;

void core_watch(bool on) {
  watching = on;
  if (on) count = 0;
}
size_t core_events(const event **found) { return *found = events, count; }
void core_name(const char *instruction, pipe_id its) { name = instruction, pipe = its; }

static event *next(void) {
  if (count == room) events = realloc(events, (room = room * 2 + 1024) * sizeof *events);
  return &events[count++];
}

void core_start_trace(uint32_t program) {
  block = program;
  if (watching) *next() = (event){.block = block, .kind = DID_BEGIN};
}

void core_did(did kind, uint32_t repeats, uint32_t bursts, uint32_t burst_bytes, uint64_t address, int64_t pitch) {
  if (watching)
    *next() = (event){name, address, pitch, repeats, bursts, burst_bytes, block, 0, kind, pipe, pipe, 0};
}

void core_flagged(did kind, pipe_id from, pipe_id to, uint64_t id, uint32_t site) {
  if (watching) *next() = (event){NULL, 0, 0, 0, 0, 0, block, site, kind, from, to, id};
}
