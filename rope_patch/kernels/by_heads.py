"""Ascend's kernel for fewer tokens than would keep the cores at work: programs take blocks of heads of single tokens.

``tiles.py`` says what the arguments are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.angles import angles_of
from rope_patch.kernels.arithmetic import NUMBERS
from rope_patch.kernels.block import turn_block
from rope_patch.kernels.blocks import Blocks, cuts, divisor, parts
from rope_patch.kernels.plan import Device
from rope_patch.kernels.shape import Shape

# Blocks of heads of one token are as large as so many bytes allow.
SPREAD_BYTES = (2 * 1024, 4 * 1024, 8 * 1024, 16 * 1024)


# Arguments stay grouped by what they are about, not one a line.
# fmt: off
@triton.jit(do_not_specialize=NUMBERS)
def rotary_kernel_by_heads(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, per_program,
                           cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                           axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                           HALF: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr, WIDE_ROWS: tl.constexpr,
                           BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ORDER: tl.constexpr = "",
                           H_PAIRS: tl.constexpr = 0, W_PAIRS: tl.constexpr = 0):
    """Program p takes items ``[p * per_program, (p + 1) * per_program)``.

    Item ``token * UNITS + u`` is the token's u-th block of heads: those of q, then those of k.
    """
    Q_UNITS: tl.constexpr = Q_HEADS // BLOCK_Q
    UNITS: tl.constexpr = Q_UNITS + K_HEADS // BLOCK_K
    first = tl.program_id(0) * per_program
    for item in range(first, tl.minimum(first + per_program, num_tokens * UNITS)):
        token = item // UNITS
        unit = item % UNITS
        cos, sin = angles_of(positions_ptr, axis_stride, cache_ptr, token, None, cache_rows, cache_stride, HALF, 1,
                             WIDE_ROWS, ORDER, H_PAIRS, W_PAIRS)
        if unit < Q_UNITS:
            turn_block(q_ptr, q_out_ptr, token, unit * BLOCK_Q, None, q_token_stride, q_head_stride, cos, sin,
                       Q_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_Q)
        elif K_HEADS > 0:
            turn_block(k_ptr, k_out_ptr, token, (unit - Q_UNITS) * BLOCK_K, None, k_token_stride, k_head_stride,
                       cos, sin, K_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_K)
# fmt: on


@dataclass(frozen=True)
class ByHeads(Blocks):
    """Single tokens, each in ``units`` blocks of heads."""

    function = rotary_kernel_by_heads
    splits_tokens = True
    block_tokens = 1

    units: int

    @classmethod
    def candidates(cls, shape: Shape, device: Device) -> Iterable["ByHeads"]:
        """The smallest blocks at least."""
        for most in (1, *(size // sum(parts(shape)) for size in SPREAD_BYTES)):
            heads, kv_heads = divisor(shape.num_heads, most), divisor(shape.num_kv_heads, most)
            for cut in cuts(shape, heads, kv_heads):
                plan = cls(*cut, units=shape.units(heads, kv_heads))
                if plan.fits(shape, device) or most == 1:
                    yield plan
