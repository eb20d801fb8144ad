"""The C entry of a kernel's shared object: it unpacks the launcher's argument struct and calls the kernel.

The struct, as triton-ascend's generated launcher packs it: [the inter-core flags' address,] a lock pointer, a workspace
pointer, the kernel's run-time arguments (8-byte ones aligned to 8, the others to 4), the grid's three sizes. The
runtime skips the first, so offsets here begin at the lock pointer. On the MLIR side a pointer is a 1-d memref.
"""

import re

C_TYPES = {
    "i1": "int8_t",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "f32": "float",
    "f64": "double",
}
GRID_PARAMETERS = 6  # three sizes, three program ids, always the last

# MLIR lowers a strided memref.copy to this call.
MEMREF_COPY = """
typedef struct { int64_t rank; int64_t *descriptor; } unranked;
void memrefCopy(int64_t size, unranked *from, unranked *to) {
  int64_t n = from->rank, *f = from->descriptor, *t = to->descriptor, at[16] = {0};
  char *source = (char *)f[1] + f[2] * size, *target = (char *)t[1] + t[2] * size;
  int64_t *shape = f + 3, *f_stride = f + 3 + n, *t_stride = t + 3 + n;
  for (int64_t i = 0; i < n; i++) if (!shape[i]) return;
  int64_t row = n && f_stride[n - 1] == 1 && t_stride[n - 1] == 1 ? shape[n - 1] : 1;
  for (;;) {
    int64_t f_at = 0, t_at = 0, k = n - 1;
    for (int64_t i = 0; i < n; i++) { f_at += at[i] * f_stride[i]; t_at += at[i] * t_stride[i]; }
    memmove(target + t_at * size, source + f_at * size, row * size);
    if (n) at[n - 1] += row - 1;
    for (; k >= 0; k--) { if (++at[k] < shape[k]) break; at[k] = 0; }
    if (k < 0) return;
  }
}
"""

# What LLVM calls to round a float to bfloat16; gcc's library has it from gcc 13 on. The result is the low half of the
# register in which C returns a float.
ROUND_TO_BF16 = """
__attribute__((weak)) float __truncsfbf2(float x) {
  union { float f; uint32_t u; } v = {x};
  if (x == x) v.u += 0x7fff + (v.u >> 16 & 1); else v.u |= 0x400000;
  v.u >>= 16;
  return v.f;
}
"""


def parameters(linalg: str) -> list[str]:
    """The MLIR types of the kernel function's parameters, in order."""
    signature = re.search(r"func\.func @\w+\((.*?)\) attributes", linalg, re.S).group(1)
    return re.findall(r"%arg\d+: (memref<[^>]*>|\w+)", signature)


def offsets(types: list[str]) -> tuple[list[int], int]:
    """The byte offset of each run-time argument, and of the grid behind them."""
    at, result = 0, []
    for kind in types:
        width = 8 if kind.startswith("memref") or kind.endswith("64") else 4
        at = -(-at // width) * width
        result.append(at)
        at += width
    return result, at


def source(name: str, types: list[str], linalg: str) -> str:
    """C source of the entry for kernel ``name``, which was kept as ``linalg``; unknown parameter types are a
    ``KeyError``."""
    types = types[:-GRID_PARAMETERS]
    places, grid = offsets(types)
    declared, passed, pointers = [], [], []
    for kind, place in zip(types, places, strict=True):
        if kind.startswith("memref"):
            declared.append("void *, void *, int64_t, int64_t, int64_t")
            passed.append(f"*(void **)(args + {place}), *(void **)(args + {place}), 0, INT64_MAX, 1")
            pointers.append(place)
        else:
            declared.append(C_TYPES[kind])
            passed.append(f"*({C_TYPES[kind]} *)(args + {place})")
    program = "int32_t, int32_t, int32_t, int32_t, int32_t, int32_t"
    return f"""
#include <stdint.h>
#include <string.h>
{MEMREF_COPY}{ROUND_TO_BF16}
void kernel({", ".join([*declared, program])}) __asm__("{name}"); /* a kernel may be called as a word of C */
void host_cann_entry(char *args, const int32_t grid[3], const int32_t block[3]) {{
  kernel({", ".join([*passed, "grid[0], grid[1], grid[2], block[0], block[1], block[2]"])});
}}
const char host_cann_linalg[] = "{linalg}";
static const uint32_t pointer_offsets[] = {{{", ".join(map(str, pointers))}}};
const struct {{ uint32_t args_size, pointers; const uint32_t *pointer_offsets; }} host_cann_layout =
    {{{grid + 12}, {len(pointers)}, pointer_offsets}};
"""
