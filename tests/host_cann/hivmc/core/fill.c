/* One value in many lanes: MOVEV (asc-devkit, asc_duplicate.md; in the library, brc_scalar_core_1d) and VBRCB
 * (asc_brcb.md: eight values a repeat, each into a block of its own; in the library, vbrcb_intrin). */
#include "operands.h"

static void fill(const char *name, char *to, const void *value, uint32_t bytes, uint64_t packed) {
  char values[REPEAT];
  vector v = one_source(name, to, NULL, packed, bytes, bytes);
  for (uint32_t i = 0; i < REPEAT; i += bytes) memcpy(values + i, value, bytes);
  vector_start(&v, packed >> 56, REPEAT / bytes);
  EACH_REPEAT(v) {
    vector_fetch(&v, repeat, NULL, NULL);
    vector_write(&v, repeat, values);
  }
}

#define MOVEV(T, ARGUMENT, TYPE)                                     \
  void hivm_MOVEV_##T(char *to, ARGUMENT argument, uint64_t packed) { \
    TYPE value = (TYPE)argument;                                     \
    fill("MOVEV." #T, to, &value, sizeof value, packed);             \
  }
MOVEV(s16, uint64_t, uint16_t) MOVEV(u16, uint64_t, uint16_t) MOVEV(s32, uint64_t, uint32_t) MOVEV(u32, uint64_t, uint32_t)
/* A bfloat comes in the register that a half comes in (tried with LLVM 19), and gcc 12 knows only the latter. */
MOVEV(f32, float, float) MOVEV(f16, _Float16, _Float16) MOVEV(bf16, _Float16, _Float16)

/* The mask has no say (no kernel of the library sets one for it), nor does counter mode; eight values follow each other
 * from repeat to repeat. Source and destination may not be the same memory (asc_brcb.md). */
static void broadcast_blocks(const char *name, char *to, const char *from, uint32_t bytes, uint64_t packed) {
  uint64_t repeats = packed >> 56, block = bits(packed, 0, 16), next = bits(packed, 32, 8) | bits(packed, 52, 4) << 8;
  core_begin(name, PIPE_V);
  core_aligned(name, to, BLOCK), core_aligned(name, from, BLOCK);
  for (uint64_t repeat = 0; repeat < repeats; repeat++) {
    const char *values = core_peek(from + repeat * 8 * bytes, 8 * bytes);
    for (int i = 0; i < 8; i++) {
      char *at = to + (repeat * next + i * block) * BLOCK, row[BLOCK];
      if (at < from + repeats * 8 * bytes && from < at + BLOCK) core_fail("%s: source and destination overlap: not defined", name);
      for (uint32_t b = 0; b < BLOCK; b += bytes) memcpy(row + b, values + i * bytes, bytes);
      memcpy(core_write(at, BLOCK), row, BLOCK);
      if (!core_known(values + i * bytes, bytes)) core_forget(at, BLOCK); /* eight are taken, however many are meant */
    }
  }
  core_did(DID_VECTOR, repeats, 0, 0, 0, 0);
}
void hivm_VBRCB_b16(char *to, const char *from, uint64_t packed) { broadcast_blocks("VBRCB.b16", to, from, 2, packed); }
void hivm_VBRCB_b32(char *to, const char *from, uint64_t packed) { broadcast_blocks("VBRCB.b32", to, from, 4, packed); }
