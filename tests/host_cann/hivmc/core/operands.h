/* How a vector instruction walks its operands, for the files that say what each instruction makes of them.
 *
 * A repeat takes eight blocks of 32 bytes of the widest operand. A block stride leads from one block of a repeat to the
 * next, a repeat stride from one repeat to the next, both in blocks (asc-devkit, C-API, 通用说明和约束). Lanes that the
 * mask leaves out are neither read nor written; no repeats at all is no operation (asc-devkit, Cast.md, on A2 and A3).
 * All of a repeat is read before any of it is written. */
#pragma once
#include "core.h"

enum { LANES = 128, RUNS = LANES / 2 };
typedef struct { char *at; uint32_t block_stride, repeat_stride, lane_bytes; } operand;
typedef struct {
  const char *name;
  masked mask;
  operand to, from[2];
  int sources;
  bool shares;     /* the destination touches a source: see steps_on */
  bool accumulates; /* such as may read what its own earlier repeats wrote */
  bool loses;      /* some lanes of this repeat are made of bytes that nobody wrote */
  bool lost[2 * LANES];
  int runs;        /* of neighbouring lanes that the mask lets through */
  struct { uint8_t first, lanes; } run[RUNS];
} vector;

/* --- operands.c --- */
void vector_start(vector *v, uint64_t repeats, uint32_t lanes);
void vector_runs(vector *v, uint64_t repeat);
void vector_read(const operand *from, vector *v, uint64_t repeat, void *into);
void vector_write(const vector *v, uint64_t repeat, const void *values);
void vector_steps_on(const vector *v, uint64_t repeat);
void core_aligned(const char *name, const void *at, uint32_t bytes);

/* One more repeat: its lanes, read into `a` and `b` (NULL where there is no such source). */
static inline void vector_fetch(vector *v, uint64_t repeat, void *a, void *b) {
  if (v->mask.counts || !repeat) vector_runs(v, repeat);
  if (v->shares) vector_steps_on(v, repeat);
  if (v->loses) memset(v->lost, v->loses = false, sizeof v->lost);
  if (a) vector_read(&v->from[0], v, repeat, a);
  if (b) vector_read(&v->from[1], v, repeat, b);
}

/* The last operand of an instruction: strides and repeats, packed. The library shifts them together so (disassembled:
 * vector_eltwise_vv_intrin and vector_eltwise_vs_intrin). */
static inline uint32_t bits(uint64_t word, int from, int count) { return word >> from & ((1ull << count) - 1); }

static inline vector two_sources(const char *name, char *to, const char *a, const char *b, uint64_t packed, uint32_t lane_bytes) {
  vector v = {.name = name, .sources = 2};
  v.to = (operand){to, bits(packed, 0, 8), bits(packed, 24, 8), lane_bytes};
  v.from[0] = (operand){(char *)a, bits(packed, 8, 8), bits(packed, 32, 8), lane_bytes};
  v.from[1] = (operand){(char *)b, bits(packed, 16, 8), bits(packed, 40, 8), lane_bytes};
  return v;
}

static inline vector one_source(const char *name, char *to, const char *from, uint64_t packed, uint32_t to_bytes, uint32_t from_bytes) {
  vector v = {.name = name, .sources = from != NULL};
  v.to = (operand){to, bits(packed, 0, 16), bits(packed, 32, 8) | bits(packed, 52, 4) << 8, to_bytes};
  v.from[0] = (operand){(char *)from, bits(packed, 16, 16), bits(packed, 40, 12), from_bytes};
  return v;
}

#define EACH_REPEAT(v) for (uint64_t repeat = 0; repeat < (v).mask.repeats; repeat++)
