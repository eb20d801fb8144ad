/* Comparing, and choosing by what was compared: VCMPV, VCMPVS, SET.CMPMASK, VSEL.
 *
 * Sources: asc-devkit, asc_eq.md, asc_eq_scalar.md, asc_select.md and Select.md (modes 0, 1, 2); AscendNPU-IR,
 * Template/…/Vector/VecUtils.h (SelectMode: what lies where in each mode), CmpUtils.h, Cast1D.cpp. */
#include "numbers.h"
#include "operands.h"

enum { NOBODYS = 0xA5 };

/* A comparison takes whole repeats, whatever the mask says, and writes their bits one repeat after the other (asc_eq.md;
 * the library asks only that a whole repeat still lies within the buffer: is_ub_repeat_space_enough). So the end of the
 * last repeat may be nobody's: what its bits are is not certain, and nobody may care. */
static void read_all(const operand *from, uint64_t repeat, uint32_t certain, char *into) {
  memset(into, NOBODYS, REPEAT);
  for (int block = 0; block < 8 && block * BLOCK < (int)certain; block++, into += BLOCK) {
    const char *at = from->at + (repeat * from->repeat_stride + (uint64_t)block * from->block_stride) * BLOCK;
    for (uint32_t i = 0; i < BLOCK;) {
      uint32_t known = core_written(at + i, BLOCK - i);
      if (known) memcpy(into + i, core_read(at + i, known), known);
      i += known ? known : 1;
    }
  }
}

/* Ascend's compiler lets the bits take their operand's place (AscendNPU-IR, PlanMemory.cpp: "not in ISA but confirmed with
 * hardware developers", for results narrower than their operand): those of a repeat lie in what it has read. Nor does it
 * know that the last repeat is whole: the bits may begin behind the operand's last lane. */
static bool may_share(const operand *from, const char *to, uint64_t repeats) {
  if (to == from->at) return repeats <= 1 || from->repeat_stride;
  return from->block_stride == 1 && to > from->at + (repeats - 1) * from->repeat_stride * BLOCK;
}

/* How many bytes of each source's repeat lie before the bits: lanes where those go are not certain. */
static uint32_t certain_bytes(const vector *v, uint64_t repeat) {
  long certain = REPEAT;
  for (int s = 0; s < v->sources; s++) {
    long before = v->to.at - (v->from[s].at + repeat * v->from[s].repeat_stride * BLOCK);
    if (v->to.at > v->from[s].at && before >= 0 && before < certain) certain = before;
  }
  return certain;
}

static void start_comparison(vector *v, uint64_t repeats, uint32_t lanes) {
  const char *to = v->to.at;
  core_begin(v->name, PIPE_V);
  if (core_mask(repeats, lanes).counts) core_fail("%s in counter mode: not known", v->name);
  core_aligned(v->name, to, BLOCK);
  for (int s = 0; s < v->sources; s++) {
    const operand *o = &v->from[s];
    const char *end = o->at + ((repeats - 1) * o->repeat_stride + 7 * o->block_stride + 1) * BLOCK;
    core_aligned(v->name, o->at, BLOCK);
    if (repeats && to < end && o->at < to + repeats * lanes / 8 && !may_share(o, to, repeats))
      core_fail("%s: source and destination overlap: not defined", v->name);
  }
  v->mask.repeats = repeats;
  core_did(DID_VECTOR, repeats, 0, 0, 0, 0);
}

#define WALK(N, RESULT)                                                       \
  EACH_REPEAT(v) {                                                            \
    uint8_t found[N / 8] = {0};                                               \
    uint32_t certain = certain_bytes(&v, repeat), bits = certain * N / REPEAT; \
    read_all(&v.from[0], repeat, certain, (char *)a);                         \
    if (v.sources > 1) read_all(&v.from[1], repeat, certain, (char *)b);      \
    for (int i = 0; i < N; i++) found[i / 8] |= (RESULT) << i % 8;            \
    memcpy(core_write(to + repeat * (N / 8), N / 8), found, N / 8);           \
    if (bits < N) core_forget(to + repeat * (N / 8) + bits / 8, (N - bits) / 8); \
  }
#define COMPARE(OP, T, TYPE, VALUE, OF, OF_VALUE, SIGN)                                                              \
  void hivm_VCMPV_##OP##_##T(char *to, const char *first, const char *second, uint64_t packed) {                     \
    enum { N = REPEAT / sizeof(TYPE) };                                                                              \
    TYPE a[N], b[N];                                                                                                 \
    vector v = two_sources("VCMPV." #OP "." #T, to, first, second, packed, sizeof(TYPE));                            \
    start_comparison(&v, packed >> 56, N);                                                                           \
    WALK(N, OF(a[i]) SIGN OF(b[i]))                                                                                  \
  }                                                                                                                  \
  void hivm_VCMPVS_##OP##_##T(char *to, const char *first, VALUE value, uint64_t packed) {                           \
    enum { N = REPEAT / sizeof(TYPE) };                                                                              \
    TYPE a[N], b[1];                                                                                                 \
    vector v = one_source("VCMPVS." #OP "." #T, to, first, packed, sizeof(TYPE), sizeof(TYPE));                      \
    start_comparison(&v, packed >> 56, N);                                                                           \
    WALK(N, OF(a[i]) SIGN OF_VALUE(value))                                                                           \
    (void)b;                                                                                                         \
  }
static inline float raw_half(_Float16 x) { uint16_t u; memcpy(&u, &x, 2); return float_of_half(u); }
#define ALL_FLOATS(OP, SIGN) \
  COMPARE(OP, f32, float, float, , , SIGN) COMPARE(OP, f16, uint16_t, _Float16, float_of_half, raw_half, SIGN)
ALL_FLOATS(EQ, ==) ALL_FLOATS(NE, !=) ALL_FLOATS(LT, <) ALL_FLOATS(GT, >) ALL_FLOATS(LE, <=) ALL_FLOATS(GE, >=)
COMPARE(EQ, s32, int32_t, uint64_t, , (int32_t), ==)

/* Sixteen bytes into a register: as many of them as a selection then takes must have been written (used_of). */
void hivm_SET_CMPMASK(const char *at) {
  core_begin("SET.CMPMASK", PIPE_V);
  if (!core_in_buffer(at) || !core_in_buffer(at + sizeof core_registers.compare - 1)) core_fail("SET.CMPMASK: outside the unified buffer");
  core_registers.compare_known = core_written(at, sizeof core_registers.compare);
  if (core_registers.compare_known) core_read(at, core_registers.compare_known);
  memcpy(core_registers.compare, at, sizeof core_registers.compare);
}

static const void *used_of_register(const char *name, uint32_t bytes) {
  if (core_registers.compare_known < bytes) core_fail("%s takes %u bytes of CMPMASK, and %u were written", name, bytes, core_registers.compare_known);
  return core_registers.compare;
}

/* A bit set takes the first source, a bit clear the second. Mode 0: the bits are in the register, the same for each
 * repeat. Mode 1: they lie where the second source would, one repeat's after the other's, and the register holds the one
 * value chosen against. Mode 2: the register holds where they lie. */
static void select_lanes(const char *name, char *to, const char *first, const char *second, uint32_t bytes, uint64_t packed) {
  uint32_t lanes = REPEAT / bytes, mode = bits(packed, 48, 2);
  char a[REPEAT] = {0}, b[REPEAT] = {0}, chosen[REPEAT];
  const char *table = NULL;
  vector v = two_sources(name, to, first, second, packed, bytes);
  if (mode == 1) v.sources = 1;
  vector_start(&v, packed >> 56, lanes);
  if (!v.mask.repeats) return;
  if (mode == 1) {
    table = second;
    for (uint32_t i = 0; i < REPEAT; i += bytes) memcpy(b + i, used_of_register(name, bytes), bytes);
  } else if (mode == 2) {
    memcpy(&table, used_of_register(name, sizeof table), sizeof table);
  } else if (mode == 3) {
    core_fail("%s in mode 3: there is none", name);
  }
  EACH_REPEAT(v) {
    char taken[LANES / 8];
    vector_fetch(&v, repeat, a, mode == 1 ? NULL : b);
    if (!v.runs) continue;
    uint32_t used = (v.run[v.runs - 1].first + v.run[v.runs - 1].lanes + 7) / 8;
    if (table)
      memcpy(taken, core_read(table + repeat * lanes / 8, used), used);
    else
      memcpy(taken, used_of_register(name, used), used);
    for (uint32_t i = 0; i < 8 * used; i++)
      memcpy(chosen + i * bytes, (taken[i / 8] >> i % 8 & 1 ? a : b) + i * bytes, bytes);
    vector_write(&v, repeat, chosen);
  }
}
void hivm_VSEL_f16_1(char *to, const char *a, const char *b, uint64_t packed) { select_lanes("VSEL.f16", to, a, b, 2, packed); }
void hivm_VSEL_f32_1(char *to, const char *a, const char *b, uint64_t packed) { select_lanes("VSEL.f32", to, a, b, 4, packed); }
