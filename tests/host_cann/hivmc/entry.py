"""The C entry of a kernel's shared object: it unpacks the launcher's argument struct and runs the kernel.

The struct, as triton-ascend's generated launcher packs it: [the inter-core flags' address,] a lock pointer, a workspace
pointer, the kernel's run-time arguments (8-byte ones aligned to 8, the others to 4), the grid's three sizes. The
runtime skips the first, so offsets here begin at the lock pointer. On the MLIR side a pointer is a 1-d memref.
"""

from .program import UB_BYTES

C_TYPES = {
    "i1": "int8_t",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "f32": "float",
    "f64": "double",
}
GRID_PARAMETERS = 3  # always the last
# Upstream's kernels that share bytes between pipes without an order (tests/ascend_kernels/test_races.py shows which:
# positions behind the last token). Fusions and the engine run them beside ours: they are let run, in program order.
RACES = {
    "split_qkv_rmsnorm_rope_kernel",  # vllm-ascend's
    "_compute_slot_mapping_kernel",  # vLLM's
    "token_bin_counts_and_mask_kernel",  # vllm-ascend's, from 0.28 on or earlier: tokens behind the last one
}


def offsets(types: list[str]) -> tuple[list[int], int]:
    """The byte offset of each run-time argument, and of the grid behind them."""
    at, result = 0, []
    for kind in types:
        width = 8 if kind.startswith("memref") or kind.endswith("64") else 4
        at = -(-at // width) * width
        result.append(at)
        at += width
    return result, at


def source(name: str, types: list[str], key: str) -> str:
    """C source of the entry for kernel ``name``, which is kept as ``key``. ``types``, of the program's parameters,
    begin with the inter-core flags' address; unknown ones are a ``KeyError``."""
    places, grid = offsets(types[1:-GRID_PARAMETERS])
    declared, passed, pointers = ["int64_t"], ["0"], []
    for kind, place in zip(types[1:], [*places, grid, grid + 4, grid + 8], strict=True):
        if kind.startswith("memref"):
            declared.append("void *, void *, int64_t, int64_t, int64_t")
            passed.append(f"*(void **)(args + {place}), *(void **)(args + {place}), 0, INT64_MAX, 1")
            pointers.append(place)
        else:
            declared.append(C_TYPES[kind])
            passed.append(f"*({C_TYPES[kind]} *)(args + {place})")
    buffer = f"core_buffer(), core_buffer(), 0, {UB_BYTES}, 1"
    return f"""
#include <stdint.h>
void *core_buffer(void);
const char *core_run(void (*program)(void *), void *arguments, uint32_t block, int32_t races);
void kernel(void *, void *, int64_t, int64_t, int64_t, {", ".join(declared)})
  __asm__("{name}"); /* a kernel may be called as a word of C */
static void program(void *arguments) {{
  char *args = arguments;
  kernel({", ".join([buffer, *passed])});
}}
const char *host_cann_entry(void *args, uint32_t block) {{
  return core_run(program, args, block, {int(name in RACES)});
}}
const char host_cann_key[] = "{key}";
static const uint32_t pointer_offsets[] = {{{", ".join(map(str, pointers))}}};
const struct {{ uint32_t args_size, pointers; const uint32_t *pointer_offsets; }} host_cann_layout =
    {{{grid + 12}, {len(pointers)}, pointer_offsets}};
"""
