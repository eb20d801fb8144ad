/* Transfers: global memory to the unified buffer and back (MTE2, MTE3), and within the unified buffer (vector pipe).
 *
 * Packing: the library's load_gm_to_ubuf_intrin_core, store_ubuf_to_gm_intrin_core and copy_ubuf_to_ubuf_intrin_core,
 * disassembled; ranges (a padding is 32 bytes at most) and alignment: asc-devkit, asc_copy_gm2ub_align_arch_2201.md,
 * asc_copy_ub2gm_align_arch_2201.md and asc_copy_ub2ub.md. Gaps lead from the end of one burst to the beginning of the
 * next; in global memory they are bytes (DMAUtils.h computes them so), in the unified buffer blocks. */
#include "operands.h"
#include <math.h>

enum { NOBODYS = 0xA5 };
/* The control word's bits 6 to 8 and 9 to 10 (the library's set_atomic_type and set_atomic_kind, disassembled). */
enum { PLAIN, F32, S32 = 4 };
enum { ADD, MAX, MIN };
typedef struct { uint32_t bursts, bytes, left, right, low_gap, high_gap; } transfer;

static transfer unpacked(const char *name, pipe_id pipe, uint64_t sizes, uint64_t gaps) {
  transfer t = {bits(sizes, 4, 12), bits(sizes, 16, 21), bits(sizes, 48, 6), bits(sizes, 54, 6), gaps, gaps >> 32};
  core_begin(name, pipe);
  if (!t.bursts || !t.bytes) core_fail("%s: %u bursts of %u bytes: not defined", name, t.bursts, t.bytes);
  return t;
}

/* Bursts begin at whole blocks. What fills the last one, beyond the padding that was asked for, is nobody's: it is
 * written, with what no test should take for an answer. */
static void load(const char *name, char *to, const char *from, uint32_t lane, uint64_t sizes, uint64_t gaps) {
  transfer t = unpacked(name, PIPE_MTE2, sizes, gaps);
  uint32_t left = t.left * lane, right = t.right * lane, used = left + t.bytes + right;
  uint32_t whole = (used + BLOCK - 1) / BLOCK * BLOCK;
  int64_t pitch = (int64_t)t.bytes + t.low_gap;
  if (left > BLOCK || right > BLOCK) core_fail("%s: padding of %u and %u bytes: more than a block", name, left, right);
  core_aligned(name, to, BLOCK);
  core_global(from, t.bursts, t.bytes, pitch, false);
  for (uint32_t i = 0; i < t.bursts; i++, to += whole + (uint64_t)t.high_gap * BLOCK, from += pitch) {
    char *row = core_write(to, whole);
    for (uint32_t b = 0; b < left; b += lane) memcpy(row + b, &core_registers.pad, lane);
    memcpy(row + left, from, t.bytes);
    for (uint32_t b = left + t.bytes; b < used; b += lane) memcpy(row + b, &core_registers.pad, lane);
    memset(row + used, NOBODYS, whole - used);
  }
  core_did(DID_LOAD, 0, t.bursts, t.bytes, (uintptr_t)(from - t.bursts * pitch), pitch);
}

static float joined_f32(const char *name, uint32_t kind, float a, float b) {
  if (kind == ADD) return a + b;
  if (isnan(a) || isnan(b)) core_fail("%s: an atomic store of NaN: not defined", name);
  return (a > b) == (kind == MAX) ? a : b;
}

static int32_t joined_s32(const char *name, uint32_t kind, int32_t a, int32_t b) {
  if (kind != ADD) return (a > b) == (kind == MAX) ? a : b;
  int32_t sum;
  if (__builtin_add_overflow(a, b, &sum)) core_fail("%s: an atomic sum that overflows: not defined", name);
  return sum;
}

/* Into lanes that are there. Blocks run one after another, so no two stores meet; of fp32 the order shows. */
static void join(const char *name, char *to, const char *from, uint32_t bytes) {
  uint32_t type = bits(core_registers.control, 6, 3), kind = bits(core_registers.control, 9, 2);
  if ((type != F32 && type != S32) || kind > MIN || bytes % 4)
    core_fail("%s: an atomic store of type %u, operation %u: not modelled", name, type, kind);
  for (uint32_t b = 0; b < bytes; b += 4) {
    if (type == F32) {
      float there, value;
      memcpy(&there, to + b, 4), memcpy(&value, from + b, 4);
      there = joined_f32(name, kind, there, value);
      memcpy(to + b, &there, 4);
    } else {
      int32_t there, value;
      memcpy(&there, to + b, 4), memcpy(&value, from + b, 4);
      there = joined_s32(name, kind, there, value);
      memcpy(to + b, &there, 4);
    }
  }
}

static void store(const char *name, char *to, const char *from, uint64_t sizes, uint64_t gaps) {
  transfer t = unpacked(name, PIPE_MTE3, sizes, gaps);
  int64_t pitch = (int64_t)t.bytes + t.high_gap;
  if (t.left || t.right) core_fail("%s: padding on the way out: not defined", name);
  bool atomic = bits(core_registers.control, 6, 3) != PLAIN;
  core_aligned(name, from, BLOCK);
  core_global(to, t.bursts, t.bytes, pitch, true);
  for (uint32_t i = 0; i < t.bursts; i++, to += pitch) {
    const char *values = core_read(from, t.bytes);
    atomic ? join(name, to, values, t.bytes) : (void)memcpy(to, values, t.bytes);
    from += (t.bytes + BLOCK - 1) / BLOCK * BLOCK + (uint64_t)t.low_gap * BLOCK;
  }
  core_did(DID_STORE, 0, t.bursts, t.bytes, (uintptr_t)(to - t.bursts * pitch), pitch);
}

#define TRANSFERS(T, LANE)                                                                           \
  void hivm_MOV_OUT_TO_UB_ALIGN_##T##_V220(char *to, const char *from, uint64_t sizes, uint64_t gaps) { \
    load("MOV.OUT.TO.UB.ALIGN." #T, to, from, LANE, sizes, gaps);                                    \
  }                                                                                                  \
  void hivm_MOV_UB_TO_OUT_ALIGN_##T##_V220(char *to, const char *from, uint64_t sizes, uint64_t gaps) { \
    store("MOV.UB.TO.OUT.ALIGN." #T, to, from, sizes, gaps);                                         \
  }
TRANSFERS(b8, 1) TRANSFERS(b16, 2) TRANSFERS(b32, 4)

/* Lengths and gaps in blocks. Overlap is not described, so it is refused; a burst onto itself changes nothing. */
void hivm_MOV_UB_TO_UB_v220(char *to, const char *from, uint64_t packed) {
  const char *name = "MOV.UB.TO.UB";
  uint32_t bursts = bits(packed, 4, 12), bytes = bits(packed, 16, 16) * BLOCK;
  uint64_t from_pitch = bytes + bits(packed, 32, 16) * (uint64_t)BLOCK, to_pitch = bytes + bits(packed, 48, 16) * (uint64_t)BLOCK;
  core_begin(name, PIPE_V);
  if (!bursts || !bytes) core_fail("%s: %u bursts of %u bytes: not defined", name, bursts, bytes);
  core_aligned(name, to, BLOCK), core_aligned(name, from, BLOCK);
  for (uint32_t i = 0; i < bursts; i++, to += to_pitch, from += from_pitch) {
    if (to != from && to < from + bytes && from < to + bytes) core_fail("%s: source and destination overlap: not defined", name);
    const char *values = core_peek(from, bytes);
    memmove(core_write(to, bytes), values, bytes);
    for (uint32_t b = 0; b < bytes; b++)
      if (!core_known(values + b, 1)) core_forget(to + b, 1);
  }
  core_did(DID_COPY, 0, bursts, bytes, 0, 0);
}
