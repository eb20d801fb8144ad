/* Instructions of lanes with one value for all of them, and of single operands: the rest of the arithmetic.
 *
 * Sources as in elementwise.c. Division and square root round to nearest; of VREC, VRSQRT, VEXP and VLN the vendor gives
 * no error bound, so here they are what double gives, rounded once: no test may count on their last bits. The larger or
 * smaller of a number and NaN has no source either: refused. */
#include "numbers.h"
#include "operands.h"
#include <math.h>

/* One source; `k` is the value for all lanes. */
#define LANEWISE(OP, T, TYPE, VALUE, CHECK, WHAT, RESULT)                                 \
  static void lanes_##OP##_##T(char *to, const char *from, VALUE k, uint64_t packed) {    \
    enum { N = REPEAT / sizeof(TYPE) };                                                   \
    TYPE a[N] = {0}, c[N];                                                                \
    vector v = one_source(#OP "." #T, to, from, packed, sizeof(TYPE), sizeof(TYPE));      \
    bool keeps = keeps_infinity();                                                        \
    uint32_t wrong = 0;                                                                   \
    vector_start(&v, packed >> 56, N);                                                    \
    EACH_REPEAT(v) {                                                                      \
      vector_fetch(&v, repeat, a, NULL);                                                  \
      for (int i = 0; i < N; i++) {                                                       \
        TYPE x = a[i];                                                                    \
        wrong |= CHECK;                                                                   \
        c[i] = RESULT;                                                                    \
      }                                                                                   \
      if (wrong) core_fail(#OP "." #T ": " WHAT);                                         \
      vector_write(&v, repeat, c);                                                        \
    }                                                                                     \
    (void)keeps, (void)k;                                                                 \
  }
#define AS_HALF(RESULT) half_of_float(RESULT, 'r', keeps)
static inline float raw_half(_Float16 x) { uint16_t u; memcpy(&u, &x, 2); return float_of_half(u); }

#define FLOATS(OP, CHECK, RESULT) \
  LANEWISE(OP, f32, float, float, CHECK, "NaN: not known", RESULT) \
  void hivm_##OP##_f32(char *to, const char *from, float k, uint64_t packed) { lanes_##OP##_f32(to, from, k, packed); }
#define HALVES(OP, CHECK, RESULT) \
  static inline float half_##OP(float x, float k) { return RESULT; } \
  static inline uint32_t wrong_##OP(float x, float k) { return (void)x, (void)k, CHECK; } \
  LANEWISE(OP, f16, uint16_t, float, wrong_##OP(float_of_half(x), k), "NaN: not known", AS_HALF(half_##OP(float_of_half(x), k))) \
  void hivm_##OP##_f16(char *to, const char *from, _Float16 k, uint64_t packed) { lanes_##OP##_f16(to, from, raw_half(k), packed); }
#define WORDS(OP, T, TYPE, CHECK, RESULT) \
  LANEWISE(OP, T, TYPE, TYPE, CHECK, "overflow: whether it wraps is not known", RESULT) \
  void hivm_##OP##_##T(char *to, const char *from, uint64_t k, uint64_t packed) { lanes_##OP##_##T(to, from, (TYPE)k, packed); }
#define SUMS(OP, T, TYPE, WIDE, SIGN) WORDS(OP, T, TYPE, (WIDE)x SIGN k != (TYPE)((WIDE)x SIGN k), (TYPE)((WIDE)x SIGN k))

FLOATS(VADDS, 0, x + k) FLOATS(VMULS, 0, x * k) FLOATS(VMAXS, x != x || k != k, x > k ? x : k) FLOATS(VMINS, x != x || k != k, x < k ? x : k)
HALVES(VADDS, 0, x + k) HALVES(VMULS, 0, x * k) HALVES(VMAXS, x != x || k != k, x > k ? x : k) HALVES(VMINS, x != x || k != k, x < k ? x : k)
SUMS(VADDS, s32, int32_t, int64_t, +) SUMS(VMULS, s32, int32_t, int64_t, *) SUMS(VADDS, s16, int16_t, int32_t, +) SUMS(VMULS, s16, int16_t, int32_t, *)
WORDS(VMAXS, s32, int32_t, 0, x > k ? x : k) WORDS(VMINS, s32, int32_t, 0, x < k ? x : k)
WORDS(VMAXS, s16, int16_t, 0, x > k ? x : k) WORDS(VMINS, s16, int16_t, 0, x < k ? x : k)

/* Arithmetic for signed numbers, logical for unsigned (asc_shiftright.md; a shift is no longer than the number is wide,
 * and what the whole width gives is not said). The right shift's last operand asks for rounding; the library never does. */
static void shift_fits(const char *name, uint64_t k, uint32_t width) {
  if (k >= width) core_fail("%s by %lu of %u bits: not known", name, (long)k, width);
}
#define SHIFTS(T, TYPE) \
  LANEWISE(VSHL, T, TYPE, uint32_t, 0, "", (TYPE)((uint32_t)x << k)) \
  LANEWISE(VSHR, T, TYPE, uint32_t, 0, "", (TYPE)(x >> k)) \
  void hivm_VSHL_##T(char *to, const char *from, uint64_t k, uint64_t packed) { \
    shift_fits("VSHL." #T, k, 8 * sizeof(TYPE)), lanes_VSHL_##T(to, from, k, packed); \
  } \
  void hivm_VSHR_##T(char *to, const char *from, uint64_t k, uint64_t packed, uint64_t rounds) { \
    if (rounds) core_fail("VSHR." #T " with rounding: not modelled"); \
    shift_fits("VSHR." #T, k, 8 * sizeof(TYPE)), lanes_VSHR_##T(to, from, k, packed); \
  }
SHIFTS(s16, int16_t) SHIFTS(u16, uint16_t) SHIFTS(s32, int32_t) SHIFTS(u32, uint32_t)

#define ALONE_FLOATS(OP, CHECK, RESULT) \
  LANEWISE(OP, f32, float, float, CHECK, "NaN: not known", RESULT) \
  void hivm_##OP##_f32(char *to, const char *from, uint64_t packed) { lanes_##OP##_f32(to, from, 0, packed); }
#define ALONE_HALVES(OP, CHECK, RESULT) \
  static inline float half_##OP(float x) { return RESULT; } \
  static inline uint32_t wrong_##OP(float x) { return (void)x, CHECK; } \
  LANEWISE(OP, f16, uint16_t, float, wrong_##OP(float_of_half(x)), "NaN: not known", AS_HALF(half_##OP(float_of_half(x)))) \
  void hivm_##OP##_f16(char *to, const char *from, uint64_t packed) { lanes_##OP##_f16(to, from, 0, packed); }
#define ALONE(OP, CHECK, RESULT) ALONE_FLOATS(OP, CHECK, RESULT) ALONE_HALVES(OP, CHECK, RESULT)

ALONE(VABS, 0, fabsf(x)) ALONE(VRELU, x != x, x > 0 ? x : 0) ALONE(VSQRT, 0, sqrtf(x))
ALONE(VREC, 0, (float)(1 / (double)x)) ALONE(VRSQRT, 0, (float)(1 / sqrt(x))) ALONE(VEXP, 0, (float)exp(x)) ALONE(VLN, 0, (float)log(x))
LANEWISE(VRELU, s32, int32_t, int32_t, 0, "", x > 0 ? x : 0)
void hivm_VRELU_s32(char *to, const char *from, uint64_t packed) { lanes_VRELU_s32(to, from, 0, packed); }
