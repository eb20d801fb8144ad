/* Many lanes into one: VCADD (a repeat), VCGADD (a block), VCPADD (a pair), VCMAX and VCMIN (a repeat).
 *
 * Sources: asc-devkit, asc_repeat_reduce_sum.md, asc_datablock_reduce_sum.md, asc_pair_reduce_sum.md and
 * asc_repeat_reduce_max.md (strides of the destination count in results), ReduceRepeat.md and ReduceDataBlock.md (a block
 * of which no lane takes part leaves its result as it was). Sums add neighbours, then the sums of neighbours, and so on:
 * each rounded, and in half what exceeds it cut off where CTRL says so. Packing: reduce_intrin, disassembled. */
#include "numbers.h"
#include "operands.h"

typedef struct { float value[LANES]; bool there[LANES]; } tree;

static float added(float x, float y, bool halves) {
  return halves ? float_of_half(half_of_float(x + y, 'r', keeps_infinity())) : x + y;
}

/* `count` leaves from `first` on, added in a tree; false where no lane of them takes part. */
static bool sum(const tree *leaves, int first, int count, bool halves, float *result) {
  tree t;
  memcpy(t.value, leaves->value + first, count * sizeof(float)), memcpy(t.there, leaves->there + first, count);
  for (; count > 1; count /= 2)
    for (int i = 0; i < count / 2; i++) {
      bool a = t.there[2 * i], b = t.there[2 * i + 1];
      t.value[i] = a && b ? added(t.value[2 * i], t.value[2 * i + 1], halves) : a ? t.value[2 * i] : t.value[2 * i + 1];
      t.there[i] = a || b;
    }
  *result = t.value[0];
  return t.there[0];
}

/* The last block that the last repeat reads: what the mask leaves out may be fewer than eight. */
static uint32_t last_block(const vector *v) {
  uint32_t lane = v->mask.lanes - 1;
  while (lane && !core_lane(&v->mask, v->mask.repeats - 1, lane)) lane--;
  return lane * v->from[0].lane_bytes / BLOCK;
}

static vector start(const char *name, char *to, const char *from, uint32_t bytes, uint64_t packed, uint32_t result_bytes, uint32_t aligned) {
  vector v = {.name = name};
  v.from[0] = (operand){(char *)from, bits(packed, 16, 16), bits(packed, 32, 16), bytes};
  core_begin(name, PIPE_V);
  v.mask = core_mask(packed >> 56, REPEAT / bytes);
  core_aligned(name, from, BLOCK), core_aligned(name, to, aligned);
  if (v.mask.repeats) {
    /* A destination that begins where the source does is read before it is written: the library does so (vcpaddCountMode
     * on its temporary buffer). */
    const operand *s = &v.from[0];
    const char *to_end = to + ((v.mask.repeats - 1) * bits(packed, 0, 16) + 1) * result_bytes;
    const char *end = from + ((v.mask.repeats - 1) * s->repeat_stride + last_block(&v) * s->block_stride + 1) * BLOCK;
    bool behind = to == from && bits(packed, 0, 16) * result_bytes <= s->repeat_stride * BLOCK;
    if (to < end && from < to_end && !behind) core_fail("%s: source and destination overlap: not defined", name);
  }
  core_did(DID_VECTOR, v.mask.repeats, 0, 0, 0, 0);
  return v;
}

static void leaves_of(vector *v, uint64_t repeat, bool halves, tree *t) {
  float values[REPEAT / 4];
  uint16_t half[LANES];
  if (v->mask.counts || !repeat) vector_runs(v, repeat);
  memset(t->there, 0, sizeof t->there);
  vector_read(&v->from[0], v, repeat, halves ? (void *)half : values);
  if (v->loses) core_fail("%s uses bytes of the unified buffer that nobody wrote", v->name);
  for (int r = 0; r < v->runs; r++)
    for (int i = v->run[r].first; i < v->run[r].first + v->run[r].lanes; i++)
      t->there[i] = true, t->value[i] = halves ? float_of_half(half[i]) : values[i];
}

static void put(char *at, float value, bool halves) {
  uint16_t half = half_of_float(value, 'r', keeps_infinity());
  memcpy(core_write(at, halves ? 2 : 4), halves ? (void *)&half : &value, halves ? 2 : 4);
}

/* One result for each `group` lanes. */
static void sums(const char *name, char *to, const char *from, uint64_t packed, bool halves, uint32_t group, bool whole_groups) {
  uint32_t bytes = halves ? 2 : 4, lanes = REPEAT / bytes, results = lanes / group;
  tree t;
  vector v = start(name, to, from, bytes, packed, results * bytes, results == 1 ? bytes : BLOCK);
  EACH_REPEAT(v) {
    leaves_of(&v, repeat, halves, &t);
    for (uint32_t i = 0; i < results; i++) {
      float value;
      if (!sum(&t, i * group, group, halves, &value)) continue;
      if (whole_groups && !(t.there[i * group] && t.there[i * group + 1])) core_fail("%s of half a pair: not known", name);
      put(to + (repeat * bits(packed, 0, 16) * results + i) * bytes, value, halves);
    }
  }
}
#define SUMS(T, HALVES) \
  void hivm_VCADD_##T##_order(char *to, const char *from, uint64_t packed, uint64_t mode) { \
    if (mode) core_fail("VCADD." #T " into its register: not modelled"); \
    sums("VCADD." #T, to, from, packed, HALVES, HALVES ? 128 : 64, false); \
  } \
  void hivm_VCGADD_##T(char *to, const char *from, uint64_t packed) { sums("VCGADD." #T, to, from, packed, HALVES, HALVES ? 16 : 8, false); } \
  void hivm_VCPADD_##T(char *to, const char *from, uint64_t packed) { sums("VCPADD." #T, to, from, packed, HALVES, 2, true); }
SUMS(f16, true) SUMS(f32, false)

/* The first of the largest, or smallest, and its lane: value and index, index and value, the value, the index (of 32 bits).
 * How NaN compares has no source: refused. */
static void extreme(const char *name, char *to, const char *from, uint64_t packed, uint64_t order, bool halves, bool largest) {
  enum { VALUE_INDEX, INDEX_VALUE, ONLY_VALUE, ONLY_INDEX };
  uint32_t bytes = halves ? 2 : 4, unit = order == ONLY_VALUE ? bytes : order == ONLY_INDEX ? 4 : 2 * bytes;
  tree t;
  if (order > ONLY_INDEX) core_fail("%s in order %lu: there is none", name, (long)order);
  vector v = start(name, to, from, bytes, packed, unit, unit);
  EACH_REPEAT(v) {
    uint32_t best = LANES;
    leaves_of(&v, repeat, halves, &t);
    for (uint32_t i = 0; i < REPEAT / bytes; i++) {
      if (!t.there[i]) continue;
      if (t.value[i] != t.value[i]) core_fail("%s of NaN: not known", name);
      if (best == LANES || (largest ? t.value[i] > t.value[best] : t.value[i] < t.value[best])) best = i;
    }
    if (best == LANES) continue;
    char *at = to + repeat * bits(packed, 0, 16) * unit;
    if (order == ONLY_INDEX) memcpy(core_write(at, 4), &best, 4);
    else put(at + (order == INDEX_VALUE ? bytes : 0), t.value[best], halves);
    if (order <= INDEX_VALUE) memcpy(core_write(at + (order == VALUE_INDEX ? bytes : 0), bytes), &best, bytes);
  }
}
#define EXTREME(OP, T, HALVES, LARGEST) \
  void hivm_##OP##_##T##_order_v220(char *to, const char *from, uint64_t packed, uint64_t order) { \
    extreme(#OP "." #T, to, from, packed, order, HALVES, LARGEST); \
  }
EXTREME(VCMAX, f16, true, true) EXTREME(VCMAX, f32, false, true) EXTREME(VCMIN, f16, true, false) EXTREME(VCMIN, f32, false, false)
