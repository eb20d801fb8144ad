/* Moving lanes to other places: VREDUCEv2 (gathering by pattern), VCOPY, VNCHWCONV (transposing), VGATHER.
 *
 * Sources: asc-devkit, asc_reduce.md and GatherMask.md; asc_copy.md; asc_transto5hd.md; asc_gather.md. AscendNPU-IR,
 * Template/…/Vector: VecUtils.h (PatternMode), BrcFirstAxis.cpp (brc_first_axis_2d_vcopy: "copy src size1 each repeat",
 * "needs count mode"), Transpose2D.cpp, GatherUtils.h. Packing: the library, disassembled. */
#include "operands.h"
#include <stdlib.h>

/* In counter mode both VREDUCEv2 and VCOPY take so many elements in each repeat, however many those are, and as many
 * repeats as they are told. Elements of one repeat of `o`, with eight blocks of stride or all of them in one piece. */
static void read_elements(const char *name, const operand *o, uint64_t repeat, uint64_t elements, char *into) {
  const char *at = o->at + repeat * o->repeat_stride * BLOCK;
  uint64_t bytes = elements * o->lane_bytes;
  if (bytes > UB_BYTES) core_fail("%s: %lu elements a repeat", name, (long)elements);
  if (o->block_stride == 1) {
    memcpy(into, core_read(at, bytes), bytes);
    return;
  }
  for (uint64_t b = 0; b < bytes; b += BLOCK, at += o->block_stride * BLOCK) {
    uint64_t part = bytes - b < BLOCK ? bytes - b : BLOCK;
    memcpy(into + b, core_read(at, part), part);
  }
}

static bool overlap(const char *a, uint64_t a_bytes, const char *b, uint64_t b_bytes) { return a < b + b_bytes && b < a + a_bytes; }

static char elements_of[UB_BYTES], kept[UB_BYTES];

/* Mode 0 takes the lanes whose bits are set in the second source; modes 1 and 2 every second lane, 3 to 6 every fourth,
 * 7 all. What was taken lies in one piece, from repeat to repeat. The mask is ignored in normal mode: whole repeats. */
static void gather_by_pattern(const char *name, char *to, const char *from, const char *pattern, uint32_t bytes, uint64_t packed) {
  enum { EVERY, SECOND_0, SECOND_1, FOURTH_0, FOURTH_3 = 6, ALL };
  uint64_t repeats = bits(packed, 0, 8) | bits(packed, 56, 8) << 8, kept_bytes = 0;
  uint32_t mode = bits(packed, 16, 8), pattern_stride = bits(packed, 40, 8);
  operand source = {(char *)from, bits(packed, 8, 8), bits(packed, 24, 16), bytes};
  core_begin(name, PIPE_V);
  masked mask = core_mask(repeats, REPEAT / bytes);
  uint64_t elements = mask.counts ? mask.total : REPEAT / bytes;
  core_aligned(name, to, BLOCK), core_aligned(name, from, BLOCK);
  if (mode > ALL) core_fail("%s with pattern %u: there is none", name, mode);
  if (source.block_stride != 1 && elements > REPEAT / bytes) core_fail("%s: more than a repeat, with a block stride: not known", name);
  for (uint64_t repeat = 0; repeat < repeats; repeat++) {
    const char *chosen = mode ? NULL : core_read(pattern + repeat * pattern_stride * BLOCK, (elements + 7) / 8);
    read_elements(name, &source, repeat, elements, elements_of);
    uint64_t before = kept_bytes;
    uint32_t first = mode == ALL ? 0 : mode >= FOURTH_0 ? mode - FOURTH_0 : mode - SECOND_0, step = mode == ALL ? 1 : mode >= FOURTH_0 ? 4 : 2;
    if (chosen) first = 0, step = 1;
    for (uint64_t i = first; i < elements; i += step) {
      if (chosen && !(chosen[i / 8] >> i % 8 & 1)) continue;
      if (kept_bytes + bytes > UB_BYTES) core_fail("%s: its result exceeds the unified buffer", name);
      memcpy(kept + kept_bytes, elements_of + i * bytes, bytes);
      kept_bytes += bytes;
    }
    uint64_t span = source.block_stride == 1 ? elements * bytes : ((uint64_t)source.block_stride * 7 + 1) * BLOCK;
    if (kept_bytes > before && overlap(to, kept_bytes, from + repeat * source.repeat_stride * BLOCK, span))
      core_fail("%s: source and destination overlap: not defined", name);
  }
  if (kept_bytes) memcpy(core_write(to, kept_bytes), kept, kept_bytes);
  core_did(DID_VECTOR, repeats * ((elements * bytes + REPEAT - 1) / REPEAT), 0, 0, 0, 0);
}
void hivm_VREDUCEv2_b16(char *to, const char *from, const char *pattern, uint64_t packed) { gather_by_pattern("VREDUCEv2.b16", to, from, pattern, 2, packed); }
void hivm_VREDUCEv2_b32(char *to, const char *from, const char *pattern, uint64_t packed) { gather_by_pattern("VREDUCEv2.b32", to, from, pattern, 4, packed); }

static void copy(const char *name, char *to, const char *from, uint32_t bytes, uint64_t packed) {
  vector v = one_source(name, to, from, packed, bytes, bytes);
  char values[REPEAT];
  if (!core_mask(0, 1).counts) {
    vector_start(&v, packed >> 56, REPEAT / bytes);
    EACH_REPEAT(v) vector_fetch(&v, repeat, values, NULL), vector_write(&v, repeat, values);
    return;
  }
  core_begin(name, PIPE_V);
  core_aligned(name, to, BLOCK), core_aligned(name, from, BLOCK);
  uint64_t repeats = packed >> 56, elements = core_mask(0, 1).total;
  if (v.to.block_stride != 1) core_fail("%s in counter mode with a block stride at its destination: not known", name);
  for (uint64_t repeat = 0; repeat < repeats; repeat++) {
    char *at = to + repeat * v.to.repeat_stride * BLOCK;
    uint64_t blocks = (elements * bytes + BLOCK - 1) / BLOCK;
    if (blocks && overlap(at, elements * bytes, from, ((repeats - 1) * v.from[0].repeat_stride + (blocks - 1) * v.from[0].block_stride + 1) * BLOCK))
      core_fail("%s: source and destination overlap: not defined", name);
    read_elements(name, &v.from[0], repeat, elements, elements_of);
    if (elements) memcpy(core_write(at, elements * bytes), elements_of, elements * bytes);
  }
  core_did(DID_VECTOR, repeats * ((elements * bytes + REPEAT - 1) / REPEAT), 0, 0, 0, 0);
}
void hivm_VCOPY_u16(char *to, const char *from, uint64_t packed) { copy("VCOPY.u16", to, from, 2, packed); }
void hivm_VCOPY_u32(char *to, const char *from, uint64_t packed) { copy("VCOPY.u32", to, from, 4, packed); }

/* Row `i` of 16 of a list of addresses, in the given repeat. A single repeat begins a stride further on (asc_transto5hd.md
 * on `repeat`; the library therefore passes 0 then). */
static char *row(const char *name, uint64_t list, int i, uint64_t repeats, uint64_t repeat, uint32_t stride) {
  char *at = (char *)core_registers.list[(list + i / 8) & 15][i % 8];
  core_aligned(name, at, BLOCK);
  return at + (repeats == 1 ? 1 : repeat) * stride * BLOCK;
}

/* 16 rows of a block each; column by column they make blocks: 16 of 16 bits; 8 pairs of 32 bits, rows 0-7 in the first;
 * of 8 bits 16 half blocks, of one half of each row. */
static void transpose(const char *name, uint64_t to, uint64_t from, uint64_t packed, uint32_t bytes, bool to_high, bool from_high) {
  uint64_t repeats = packed >> 56;
  uint32_t to_stride = bits(packed, 0, 16), from_stride = bits(packed, 16, 16), columns = bytes == 4 ? 8 : 16;
  core_begin(name, PIPE_V);
  for (uint64_t repeat = 0; repeat < repeats; repeat++) {
    char in[16][BLOCK], out[16 * BLOCK];
    for (int i = 0; i < 16; i++) {
      const char *at = row(name, from, i, repeats, repeat, from_stride) + (bytes == 1 && from_high ? 16 : 0);
      memcpy(in[i], core_read(at, 16 * bytes < BLOCK ? 16 : BLOCK), 16 * bytes < BLOCK ? 16 : BLOCK);
    }
    for (uint32_t c = 0; c < columns; c++)
      for (int i = 0; i < 16; i++) memcpy(out + (c * 16 + i) * bytes, in[i] + c * bytes, bytes);
    uint32_t piece = bytes == 1 ? 16 : BLOCK;
    for (int i = 0; i < 16; i++) {
      char *at = row(name, to, i, repeats, repeat, to_stride) + (bytes == 1 && to_high ? 16 : 0);
      memcpy(core_write(at, piece), out + i * piece, piece);
    }
  }
  core_did(DID_VECTOR, repeats, 0, 0, 0, 0);
}
void hivm_S_VNCHWCONV_b8(uint64_t to, uint64_t from, uint64_t packed, uint64_t to_high, uint64_t from_high) { transpose("S.VNCHWCONV.b8", to, from, packed, 1, to_high, from_high); }
void hivm_S_VNCHWCONV_b16(uint64_t to, uint64_t from, uint64_t packed) { transpose("S.VNCHWCONV.b16", to, from, packed, 2, false, false); }
void hivm_S_VNCHWCONV_b32(uint64_t to, uint64_t from, uint64_t packed) { transpose("S.VNCHWCONV.b32", to, from, packed, 4, false, false); }

/* Offsets are 32 bits, of bytes from the base address that the packed operand's lower half is; the library passes 0 and
 * adds the source's address to the offsets. Its 32 bits are all that there is of this host's address, and enough. */
static void gather(const char *name, char *to, const char *offsets, uint32_t bytes, uint64_t packed) {
  char *buffer = core_buffer(), values[REPEAT];
  uint32_t lanes = REPEAT / bytes, places[LANES], base = packed;
  vector v = {.name = name, .to = {to, 1, 8, bytes}};
  operand index = {(char *)offsets, 1, lanes * sizeof(uint32_t) / BLOCK, sizeof(uint32_t)};
  if (bits(packed, 32, 24) != 8) core_fail("%s with a repeat stride of %u: not known", name, bits(packed, 32, 24));
  vector_start(&v, packed >> 56, lanes);
  core_aligned(name, offsets, BLOCK);
  EACH_REPEAT(v) {
    vector_fetch(&v, repeat, NULL, NULL);
    vector_read(&index, &v, repeat, places);
    for (int r = 0; r < v.runs; r++)
      for (uint32_t i = v.run[r].first; i < (uint32_t)v.run[r].first + v.run[r].lanes; i++) {
        uint32_t place = base + places[i] - (uint32_t)(uintptr_t)buffer;
        if (place >= UB_BYTES || place % bytes) core_fail("%s: offset %u of the unified buffer", name, place);
        memcpy(values + i * bytes, core_read(buffer + place, bytes), bytes);
      }
    vector_write(&v, repeat, values);
  }
}
void hivm_VGATHER_b16(char *to, const char *offsets, uint64_t packed) { gather("VGATHER.b16", to, offsets, 2, packed); }
void hivm_VGATHER_b32(char *to, const char *offsets, uint64_t packed) { gather("VGATHER.b32", to, offsets, 4, packed); }
