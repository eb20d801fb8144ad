/* One vector core of an Ascend A2 or A3 (dav-c220): what the files of its instructions share.
 *
 * A program runs instruction by instruction, in the order in which the scalar unit issues them. On hardware the pipes
 * then run beside each other, ordered by flags and barriers alone: order.c follows those and refuses what they leave to
 * chance. An instruction touches memory only through the functions below, so nothing escapes it. */
#pragma once
#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { UB_BYTES = 192 << 10, BLOCK = 32, REPEAT = 256 };
/* In the numbers that the instructions themselves use (hivm's PIPE enumeration). */
typedef enum { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_ALL, PIPES = PIPE_ALL } pipe_id;

/* --- order.c: which pipe does what, when --- */
void core_begin(const char *name, pipe_id pipe);            /* every instruction, first */
const void *core_read(const void *at, size_t bytes);        /* of the unified buffer: checked, then readable */
/* A lane may be computed of bytes that nobody wrote, such as padding, and then nobody wrote it either: what such bytes
 * must not do is leave the unified buffer, or steer the scalar unit. */
const void *core_peek(const void *at, size_t bytes);        /* as core_read, but they need not be written */
bool core_known(const void *at, size_t bytes);              /* this program wrote them all */
void core_forget(void *at, size_t bytes);                   /* after core_write: as if nobody had */
void *core_write(void *at, size_t bytes);                   /* of the unified buffer: checked, then writable */
size_t core_written(const void *at, size_t bytes);          /* how many of them, from the first on, the program has written */
void core_global(const void *at, uint32_t bursts, uint32_t burst_bytes, int64_t pitch, bool writes);
_Noreturn void core_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool core_in_buffer(const void *at);
void *core_buffer(void);
void core_start_order(bool races);
void core_end_order(void);

/* --- trace.c: what ran, for facts and the clock; core_begin's instruction, once its size is known --- */
typedef enum { DID_VECTOR, DID_LOAD, DID_STORE, DID_COPY, DID_SCALAR, DID_SET, DID_WAIT, DID_BARRIER, DID_BEGIN } did;
void core_name(const char *instruction, pipe_id its);
void core_did(did kind, uint32_t repeats, uint32_t bursts, uint32_t burst_bytes, uint64_t address, int64_t pitch);
void core_flagged(did kind, pipe_id from, pipe_id to, uint64_t event, uint32_t site);
void core_start_trace(uint32_t block);

/* --- registers.c --- */
typedef struct {
  uint64_t control, mask[2], pad, block, list[16][8];
  char compare[16];         /* CMPMASK, and how many of its bytes had been written where they came from */
  uint32_t compare_known;
} registers;
extern registers core_registers;
/* Lanes of repeat `repeat` that an instruction of `lanes` lanes works on: all, the first so many, or a bit each. */
typedef struct { uint64_t repeats; uint32_t lanes; bool counts; uint64_t total; } masked;
masked core_mask(uint64_t repeats, uint32_t lanes);
uint32_t core_lanes(const masked *mask, uint64_t repeat); /* counter mode: how many, from the first on */
bool core_lane(const masked *mask, uint64_t repeat, uint32_t lane);
