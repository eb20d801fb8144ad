/* The scalar unit's own accesses to memory, told before they happen, and the run of a program. */
#include "core.h"
#include <setjmp.h>

void core_start_registers(uint64_t block);
void core_escape_to(sigjmp_buf *where);
const char *core_message(void);

void core_scalar(char *at, uint64_t bytes, int32_t stores) {
  bool inside = core_in_buffer(at);
  core_begin(stores ? "scalar store" : "scalar load", PIPE_S);
  if (!inside)
    core_global(at, 1, bytes, bytes, stores);
  else if (stores)
    core_write(at, bytes);
  else
    core_read(at, bytes);
  core_did(DID_SCALAR, 0, 1, bytes, inside ? 0 : (uint64_t)at, stores);
}

/* The library's pointers say which memory they are for; here one function serves both. */
void core_scalar1(char *at, uint64_t bytes, int32_t stores) { core_scalar(at, bytes, stores); }
void core_scalar6(char *at, uint64_t bytes, int32_t stores) { core_scalar(at, bytes, stores); }

/* The description of a buffer that is not there: see hosted() in library.py. */
char core_nothing[256];

/* Run one program of a grid to its end; what was wrong, or NULL. */
const char *core_run(void (*program)(void *), void *arguments, uint32_t block, int32_t races) {
  sigjmp_buf here;
  bool failed = sigsetjmp(here, 0);
  if (!failed) {
    core_escape_to(&here);
    core_start_registers(block);
    core_start_order(races);
    core_start_trace(block);
    program(arguments);
    core_end_order();
  }
  core_escape_to(NULL);
  return failed ? core_message() : NULL;
}

/* What LLVM calls to round a float to bfloat16; gcc's library has it from gcc 13 on. The result is the low half of the
 * register in which C returns a float. */
__attribute__((weak)) float __truncsfbf2(float x) {
  union { float f; uint32_t u; } v = {x};
  if (x == x) v.u += 0x7fff + (v.u >> 16 & 1); else v.u |= 0x400000;
  v.u >>= 16;
  return v.f;
}
