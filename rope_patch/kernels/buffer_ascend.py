"""What a plan needs of the unified buffer, at least: for the compiler to take it without giving anything up.

Two buffers each for what is loaded and stored, so that one moves while the other is at work, and fp32 in between. No
plan for a shape of tests/shapes.py overflows it by the verdict of bishengir-compile 1.0.0, 1.1.0 or 1.2.0; the first is
the strictest.
"""

from rope_patch.kernels.plan import Plan, Shape, ceil_div

# The last axis of a tile in the unified buffer is padded to whole blocks, and slices of it must begin at one.
BLOCK_BYTES = 32
# For everything that is not a tile: the allowance of a rule of thumb given in vllm-ascend #10388.
RESERVED_BYTES = 8 * 1024


def bytes_of(plan: Plan, shape: Shape) -> int:
    half, rest = shape.rotary_dim // 2, shape.head_size - shape.rotary_dim if shape.fresh else 0
    rows = plan.block_tokens * max(plan.block_heads, plan.block_kv_heads)
    table = 4 * _padded(half, shape.cache_itemsize) + 2 * _padded(half, 4)
    row = _turning_bytes(half, shape.itemsize, plan.pairs) + 2 * _padded(rest, shape.itemsize)
    if plan.by_head:  # cosines and sines once for each head
        row += 2 * _padded(half, 4)
    return RESERVED_BYTES + plan.block_tokens * table + rows * row


def _turning_bytes(half: int, itemsize: int, pairs: str) -> int:
    """For the rotary part of a row."""
    if pairs == "words":
        return 9 * _padded(half, 4)
    turning = 4 * _padded(half, itemsize) + 6 * _padded(half, 4)
    if pairs == "slices":  # putting pairs together takes five times what comes out; narrow ones are taken apart narrow
        turning += (10 if itemsize == 4 else 14) * _padded(half, itemsize)
    return turning


def _padded(lanes: int, itemsize: int) -> int:
    """Bytes of so many lanes in the unified buffer."""
    return ceil_div(lanes * itemsize, BLOCK_BYTES) * BLOCK_BYTES
