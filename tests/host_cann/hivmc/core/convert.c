/* VCONV: one kind of number into another.
 *
 * Rules: asc-devkit, Cast.md (lanes and mask count in the wider of the two types) and precision_conversion.md (each pair's
 * rounding; "what is beyond the target's range saturates by default": 2^31 into int32 gives 2^31 - 1). NaN into an
 * integer has no source: refused. */
#include "numbers.h"
#include "operands.h"

#define CONVERT(NAME, FROM, TO, RESULT)                                                            \
  void hivm_VCONV_##NAME##_v220(char *to, const char *from, uint64_t packed) {                     \
    enum { N = REPEAT / (sizeof(FROM) > sizeof(TO) ? sizeof(FROM) : sizeof(TO)) };                 \
    const char *name = "VCONV." #NAME;                                                             \
    FROM a[N] = {0};                                                                               \
    TO c[N];                                                                                       \
    bool keeps = keeps_infinity();                                                                 \
    vector v = one_source(name, to, from, packed, sizeof(TO), sizeof(FROM));                       \
    vector_start(&v, packed >> 56, N);                                                             \
    EACH_REPEAT(v) {                                                                               \
      vector_fetch(&v, repeat, a, NULL);                                                           \
      for (int i = 0; i < N; i++) {                                                                \
        FROM x = a[i];                                                                             \
        c[i] = RESULT;                                                                             \
      }                                                                                            \
      vector_write(&v, repeat, c);                                                                 \
    }                                                                                              \
    (void)keeps;                                                                                   \
  }

/* A float's nearest integer in the mode, kept within [low, high]. */
static inline int64_t whole(const char *name, float x, char mode, int64_t low, int64_t high) {
  if (x != x) core_fail("%s: NaN as an integer: not known", name);
  if (x >= 0x1p63f) return high;
  if (x < -0x1p63f) return low;
  int64_t kept = (int64_t)x;
  double rest = (double)x - (double)kept; /* exact: beyond 2^24 a float is whole */
  if (mode == 'f') kept -= rest < 0;
  if (mode == 'c') kept += rest > 0;
  if (mode == 'a') kept += (rest >= .5) - (rest <= -.5);
  if (mode == 'r') kept += (rest > .5 || (rest == .5 && (kept & 1))) - (rest < -.5 || (rest == -.5 && (kept & 1)));
  return kept < low ? low : kept > high ? high : kept;
}

/* A float without its fraction; of a number that has none, itself. A result of 0 keeps the number's sign, as IEEE 754's
 * operations of that name do. */
static inline float without_fraction(float x, char mode) {
  uint32_t size = float_bits(x) & 0x7fffffff;
  if (size >= 0x4b000000) return x;
  return bits_float(float_bits((float)whole("VCONV.f322f32", x, mode, INT64_MIN, INT64_MAX)) | (float_bits(x) & 0x80000000));
}

static inline float float_of_whole(int64_t x, char mode) {
  bool negative = x < 0;
  uint64_t size = negative ? -(uint64_t)x : (uint64_t)x;
  int shift = size >> 24 ? 40 - __builtin_clzll(size) : 0;
  uint64_t kept = size >> shift, rest = size - (kept << shift), half = shift ? 1ull << (shift - 1) : 1;
  /* only how the rest compares to half of the last bit matters */
  kept += rounds_up(mode, negative, kept & 1, rest ? 2 + (rest > half) - (rest < half) : 0, 2);
  float result = (float)kept * (float)(1ull << shift);
  return negative ? -result : result;
}

static inline int64_t within(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

CONVERT(bf162f32, uint16_t, float, float_of_bfloat(x))
CONVERT(f162f32, uint16_t, float, float_of_half(x))
CONVERT(s162f32, int16_t, float, x)
CONVERT(s82f16, int8_t, uint16_t, half_of_float(x, 'r', keeps))
CONVERT(u82f16, uint8_t, uint16_t, half_of_float(x, 'r', keeps))
CONVERT(s322s64_1, int32_t, int64_t, x)
CONVERT(s642s32_1, int64_t, int32_t, within(x, INT32_MIN, INT32_MAX))
CONVERT(s322s16, int32_t, int16_t, within(x, INT16_MIN, INT16_MAX))
CONVERT(f322f16o, float, uint16_t, half_of_float(x, 'o', keeps))

#define IN_MODE(LETTER, MODE) \
  CONVERT(f322bf16##LETTER, float, uint16_t, bfloat_of_float(x, MODE, keeps)) \
  CONVERT(f322f16##LETTER, float, uint16_t, half_of_float(x, MODE, keeps)) \
  CONVERT(f322f32##LETTER, float, float, without_fraction(x, MODE)) \
  CONVERT(f322s16##LETTER, float, int16_t, whole(name, x, MODE, INT16_MIN, INT16_MAX)) \
  CONVERT(f322s32##LETTER, float, int32_t, whole(name, x, MODE, INT32_MIN, INT32_MAX)) \
  CONVERT(f322s64##LETTER, float, int64_t, whole(name, x, MODE, INT64_MIN, INT64_MAX)) \
  CONVERT(bf162s32##LETTER, uint16_t, int32_t, whole(name, float_of_bfloat(x), MODE, INT32_MIN, INT32_MAX)) \
  CONVERT(f162s32##LETTER, uint16_t, int32_t, whole(name, float_of_half(x), MODE, INT32_MIN, INT32_MAX)) \
  CONVERT(f162s16##LETTER, uint16_t, int16_t, whole(name, float_of_half(x), MODE, INT16_MIN, INT16_MAX)) \
  CONVERT(f162s8##LETTER, uint16_t, int8_t, whole(name, float_of_half(x), MODE, INT8_MIN, INT8_MAX)) \
  CONVERT(f162u8##LETTER, uint16_t, uint8_t, whole(name, not_negative(name, float_of_half(x)), MODE, 0, UINT8_MAX)) \
  CONVERT(s162f16##LETTER, int16_t, uint16_t, half_of_float(x, MODE, keeps)) \
  CONVERT(s322f32##LETTER, int32_t, float, float_of_whole(x, MODE)) \
  CONVERT(s642f32##LETTER##_1, int64_t, float, float_of_whole(x, MODE))

/* "Negative input counts as an exception" (precision_conversion.md, half to uint8_t). */
static inline float not_negative(const char *name, float x) {
  if (x < 0) core_fail("%s of a negative number: not defined", name);
  return x;
}

IN_MODE(r, 'r') IN_MODE(a, 'a') IN_MODE(f, 'f') IN_MODE(c, 'c') IN_MODE(z, 'z')
