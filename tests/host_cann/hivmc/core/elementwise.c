/* Instructions of lanes that know nothing of each other: arithmetic and logic.
 *
 * Sources: AscendNPU-IR, Template/lib/Vector/Elementwise, names the operation that each instruction is there for;
 * asc-devkit, C-API/vector_compute (asc_add.md …), describes them. Floating point rounds to nearest, ties to even; half
 * is computed in float, which holds a sum, difference, product or quotient so closely that rounding once more changes
 * nothing. The larger or smaller of a number and NaN has no source: refused; that of +0 and -0 is the second.
 * Integers that overflow: no source says whether they wrap (CTRL bit 53 chooses on the 950; nothing names it here). */
#include "numbers.h"
#include "operands.h"

/* A loop over all lanes, whether the mask lets them through or not: what was not read is 0 or an earlier repeat's. */
#define BINARY(OP, T, TYPE, ACCUMULATES, CHECK, WHAT, RESULT)                                                      \
  void hivm_##OP##_##T(char *to, const char *first, const char *second, uint64_t packed) {                        \
    enum { N = REPEAT / sizeof(TYPE) };                                                                            \
    TYPE a[N] = {0}, b[N] = {0}, c[N];                                                                             \
    vector v = two_sources(#OP "." #T, to, first, second, packed, sizeof(TYPE));                                  \
    bool keeps = keeps_infinity();                                                                                 \
    uint32_t lost = 0;                                                                                             \
    v.accumulates = ACCUMULATES;                                                                                   \
    vector_start(&v, packed >> 56, N);                                                                             \
    EACH_REPEAT(v) {                                                                                               \
      vector_fetch(&v, repeat, a, b);                                                                              \
      for (int i = 0; i < N; i++) {                                                                                \
        TYPE x = a[i], y = b[i];                                                                                   \
        lost |= CHECK;                                                                                             \
        c[i] = RESULT;                                                                                             \
      }                                                                                                            \
      if (lost) core_fail(#OP "." #T ": " WHAT);                                                                  \
      vector_write(&v, repeat, c);                                                                                 \
    }                                                                                                              \
    (void)keeps;                                                                                                   \
  }
#define FLOATS(OP, ACCUMULATES, CHECK, RESULT) BINARY(OP, f32, float, ACCUMULATES, CHECK, "NaN: not known", RESULT)
/* Halves, through float. */
#define HALVES(OP, ACCUMULATES, CHECK, RESULT) \
  static inline float half_##OP(float x, float y) { return RESULT; } \
  static inline uint32_t wrong_##OP(float x, float y) { return (void)x, (void)y, CHECK; } \
  BINARY(OP, f16, uint16_t, ACCUMULATES, wrong_##OP(float_of_half(x), float_of_half(y)), "NaN: not known", \
         half_of_float(half_##OP(float_of_half(x), float_of_half(y)), 'r', keeps))
#define WORDS(OP, T, TYPE, WIDE, ACCUMULATES, SIGN) \
  BINARY(OP, T, TYPE, ACCUMULATES, (WIDE)x SIGN y != (TYPE)((WIDE)x SIGN y), "overflow: whether it wraps is not known", \
         (TYPE)((WIDE)x SIGN y))

FLOATS(VADD, true, 0, x + y) FLOATS(VSUB, true, 0, x - y) FLOATS(VMUL, true, 0, x * y) FLOATS(VDIV, false, 0, x / y)
HALVES(VADD, true, 0, x + y) HALVES(VSUB, true, 0, x - y) HALVES(VMUL, true, 0, x * y) HALVES(VDIV, false, 0, x / y)
FLOATS(VMAX, true, x != x || y != y, x > y ? x : y) FLOATS(VMIN, true, x != x || y != y, x < y ? x : y)
HALVES(VMAX, true, x != x || y != y, x > y ? x : y) HALVES(VMIN, true, x != x || y != y, x < y ? x : y)
WORDS(VADD, s32, int32_t, int64_t, true, +) WORDS(VSUB, s32, int32_t, int64_t, true, -) WORDS(VMUL, s32, int32_t, int64_t, true, *)
WORDS(VADD, s16, int16_t, int32_t, false, +) WORDS(VSUB, s16, int16_t, int32_t, false, -) WORDS(VMUL, s16, int16_t, int32_t, false, *)

BINARY(VMAX, s32, int32_t, true, 0, "", x > y ? x : y) BINARY(VMIN, s32, int32_t, true, 0, "", x < y ? x : y)
BINARY(VMAX, s16, int16_t, false, 0, "", x > y ? x : y) BINARY(VMIN, s16, int16_t, false, 0, "", x < y ? x : y)

#define LOGIC(OP, T, RESULT) BINARY(OP, T, uint16_t, false, 0, "", RESULT)
LOGIC(VAND, s16, x & y) LOGIC(VAND, u16, x & y) LOGIC(VOR, s16, x | y) LOGIC(VOR, u16, x | y)

#define UNARY(OP, T, TYPE, RESULT)                                                       \
  void hivm_##OP##_##T(char *to, const char *from, uint64_t packed) {                    \
    enum { N = REPEAT / sizeof(TYPE) };                                                  \
    TYPE a[N] = {0}, c[N];                                                               \
    vector v = one_source(#OP "." #T, to, from, packed, sizeof(TYPE), sizeof(TYPE));     \
    vector_start(&v, packed >> 56, N);                                                   \
    EACH_REPEAT(v) {                                                                     \
      vector_fetch(&v, repeat, a, NULL);                                                 \
      for (int i = 0; i < N; i++) {                                                      \
        TYPE x = a[i];                                                                   \
        c[i] = RESULT;                                                                   \
      }                                                                                  \
      vector_write(&v, repeat, c);                                                       \
    }                                                                                    \
  }
UNARY(VNOT, s16, uint16_t, ~x) UNARY(VNOT, u16, uint16_t, ~x)
