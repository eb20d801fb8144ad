"""What all kernels share: the formula, the cache row of a position, and the offsets of a block.

With x1, x2 the two halves of a head's rotary part (NeoX) or its even and odd lanes (GPT-J)::

    y1 = x1 * cos - x2 * sin
    y2 = x2 * cos + x1 * sin

(RoFormer, Su et al. 2021, equation 34, in the real form that vLLM's ``ApplyRotaryEmb`` computes.)
"""

import triton
import triton.language as tl

# The integers that a launch gives every kernel of a rotation at run time, after its pointers. Triton must not compile
# a kernel for some values of them; and ``runner.py`` looks for all run-time arguments side by side, before others.
NUMBERS = [
    "num_tokens", "per_program", "cache_rows", "cache_stride", "q_token_stride", "q_head_stride", "k_token_stride",
    "k_head_stride", "axis_stride",
]  # fmt: skip


@triton.jit
def turned(x1, x2, cos, sin, PRODUCTS_FIRST: tl.constexpr):
    """Both lanes of each pair, in fp32.

    The same results either way. Ascend's steps wait for fewer results when all products come first; a GPU's schedule
    is up to 5% slower for it.
    """
    if PRODUCTS_FIRST:
        x1_cos = x1 * cos
        x2_sin = x2 * sin
        x2_cos = x2 * cos
        x1_sin = x1 * sin
        y1 = x1_cos - x2_sin
        y2 = x2_cos + x1_sin
    else:
        y1 = x1 * cos - x2 * sin
        y2 = x2 * cos + x1 * sin
    return y1, y2


@triton.jit
def row_offset(position, cache_rows, cache_stride):
    """Where the row of a position begins. Positions outside the cache are clamped to its rows.

    In 32 bits, since Ascend computes vectors of int64 one by one: of a position beyond int32 the lowest 32 bits count,
    so 2**32 is 0. No cache has a row for it: those that need more than 32 bits are refused.
    """
    return tl.minimum(tl.maximum(position.to(tl.int32), 0), cache_rows - 1) * cache_stride


@triton.jit
def block_offsets(token_stride, head_stride, LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    """Offsets in a ``[BLOCK_T, BLOCK_H, LANES]`` block from its first element, 32 bits (``plan.MAX_TILE_OFFSET``)."""
    t = tl.arange(0, BLOCK_T)[:, None, None] * token_stride
    h = tl.arange(0, BLOCK_H)[None, :, None] * head_stride
    return t + h + tl.arange(0, LANES)[None, None, :]
