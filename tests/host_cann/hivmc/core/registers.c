/* The registers that instructions share: the control word, the mask, the padding value, lists of addresses.
 *
 * Bit 56 of CTRL says what the mask is (AscendNPU-IR, Template/lib/Vector: set_mask_count and set_mask_norm): clear, a
 * bit for each lane of a repeat; set, the number of elements in all, from which the number of repeats follows. */
#include "core.h"

enum { CTRL_KEEPS_INFINITY = 48, CTRL_COUNTS = 56 };
registers core_registers;

/* On A2 and A3 the runtime keeps infinity and NaN unless asked to saturate ("use the default value 1", set_device_sat_mode
 * in the TensorFlow adapter's reference, CANN 8.5). */
void core_start_registers(uint64_t block) {
  core_registers = (registers){.control = 1ull << CTRL_KEEPS_INFINITY, .mask = {~0ull, ~0ull}, .block = block};
}

/* One that the scalar unit does by itself. */
static void scalar(const char *name) { core_begin(name, PIPE_S), core_did(DID_SCALAR, 0, 0, 0, 0, 0); }

uint64_t hivm_GET_BLOCK_IDX(void) { return core_registers.block; }
uint64_t hivm_GET_SUBBLOCKID(void) { return 0; }  /* no cube core, no second vector core beside it */
uint64_t hivm_GET_SUBBLOCKDIM(void) { return 1; }
uint64_t hivm_GET_CTRL(void) { return core_registers.control; }
uint64_t hivm_SBITSET0(uint64_t value, uint64_t bit) { return value & ~(1ull << bit); }
uint64_t hivm_SBITSET1(uint64_t value, uint64_t bit) { return value | 1ull << bit; }
void hivm_SET_CTRL(uint64_t value) { scalar("SET.CTRL"), core_registers.control = value; }
void hivm_MOVEMASK(uint64_t high, uint64_t value) { scalar("MOVEMASK"), core_registers.mask[high & 1] = value; }
void hivm_SET_MOV_PAD_VAL(uint64_t value) { scalar("SET.MOV.PAD.VAL"), core_registers.pad = value; }

/* hivm.hir.set_mask_norm, the operation that programs begin with. */
void core_set_mask_norm(void) { core_registers.control &= ~(1ull << CTRL_COUNTS); }

/* Two of the eight addresses of a list that VNCHWCONV takes its rows from. */
void hivm_MOVEVA(uint64_t list, uint64_t first, uint64_t a, uint64_t b) {
  scalar("MOVEVA");
  core_registers.list[list & 15][first & 7] = a;
  core_registers.list[list & 15][(first + 1) & 7] = b;
}

masked core_mask(uint64_t repeats, uint32_t lanes) {
  bool counts = core_registers.control >> CTRL_COUNTS & 1;
  uint64_t total = core_registers.mask[0];
  if (counts) repeats = (total + lanes - 1) / lanes;
  return (masked){repeats, lanes, counts, total};
}

uint32_t core_lanes(const masked *mask, uint64_t repeat) {
  uint64_t left = mask->total - repeat * mask->lanes;
  return left < mask->lanes ? left : mask->lanes;
}

bool core_lane(const masked *mask, uint64_t repeat, uint32_t lane) {
  if (mask->counts) return lane < core_lanes(mask, repeat);
  return core_registers.mask[lane / 64] >> lane % 64 & 1;
}
