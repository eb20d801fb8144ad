/* Numbers of the vector core, as bits: half and bfloat16 out of and into float, in every rounding mode.
 *
 * Modes are named by the letter that ends an instruction's name (AscendNPU-IR, Template/…/Vector/Cast/CastUtils.h,
 * calls them CastMode): r to nearest, ties to even; a to nearest, ties away; f down; c up; z to zero; o to odd (a lost
 * bit makes the last kept one 1). Their rules: asc-devkit, precision_conversion.md.
 *
 * Bit 48 of CTRL clear: where the result is half or bfloat16, infinity becomes the largest number and NaN becomes 0; set:
 * both stay (asc-devkit, SetCtrlSpr(ISASI).md, tables 4 and 5). */
#pragma once
#include "core.h"

static inline bool keeps_infinity(void) { return core_registers.control >> 48 & 1; }

static inline uint32_t float_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float bits_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

/* Whether `kept`, having lost `rest` (in which `half` is the first bit), goes up by one. */
static inline bool rounds_up(char mode, bool negative, uint32_t kept, uint32_t rest, uint32_t half) {
  switch (mode) {
    case 'r': return rest > half || (rest == half && (kept & 1));
    case 'a': return rest >= half;
    case 'f': return negative && rest;
    case 'c': return !negative && rest;
    case 'o': return !(kept & 1) && rest;
    default: return false;
  }
}

static inline float float_of_bfloat(uint16_t x) { return bits_float((uint32_t)x << 16); }

static inline uint16_t bfloat_of_float(float x, char mode, bool keeps) {
  uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, size = u & 0x7fffffff, kept = size >> 16;
  if (size > 0x7f800000) return keeps ? sign | kept | 0x40 : 0;
  kept += rounds_up(mode, sign, kept, size & 0xffff, 0x8000);
  return sign | (kept == 0x7f80 && !keeps ? 0x7f7f : kept);
}

/* The product is exact and makes small halves normal floats. */
static inline float float_of_half(uint16_t x) {
  uint32_t size = (uint32_t)(x & 0x7fff) << 13, sign = (uint32_t)(x & 0x8000) << 16;
  uint32_t u = float_bits(bits_float(size) * 0x1p112f);
  return bits_float(((x & 0x7c00) == 0x7c00 ? size | 0x7f800000 : u) | sign);
}

static inline uint16_t half_of_float(float x, char mode, bool keeps) {
  uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, size = u & 0x7fffffff, exponent = size >> 23, kept;
  if (size > 0x7f800000) return keeps ? sign | 0x7e00 | (size >> 13 & 0x1ff) : 0;
  if (size == 0x7f800000) return sign | (keeps ? 0x7c00 : 0x7bff);
  if (exponent >= 143) { /* 2^16 and more: the largest half, with all that is above it lost */
    kept = 0x7bff + rounds_up(mode, sign, 0x7bff, 3, 1);
  } else if (exponent >= 113) {
    uint32_t value = size - (112u << 23);
    kept = (value >> 13) + rounds_up(mode, sign, value >> 13, value & 0x1fff, 0x1000);
  } else { /* a half below 2^-14 counts in 2^-24; of a float far below, only that there is one matters */
    uint32_t value = (size & 0x7fffff) | (exponent ? 0x800000 : 0), shift = exponent < 100 ? 26 : 126 - exponent;
    kept = value >> shift;
    kept += rounds_up(mode, sign, kept, value & ((1u << shift) - 1), 1u << (shift - 1));
  }
  return sign | (kept == 0x7c00 && !keeps ? 0x7bff : kept);
}
