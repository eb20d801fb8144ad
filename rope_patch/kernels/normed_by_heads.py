"""Ascend's kernel of norm and rotation for few tokens: programs take blocks of heads of single tokens.

``normed.py`` says what the arguments are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.blocks import divisor
from rope_patch.kernels.normed import NORMED_NUMBERS
from rope_patch.kernels.normed_angles import normed_angles
from rope_patch.kernels.normed_block import move_block, norm_block, parameters
from rope_patch.kernels.normed_plan import NormedPlan
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Device, ceil_div


# Arguments stay grouped by what they are about, not one a line.
# fmt: off
@triton.jit(do_not_specialize=NORMED_NUMBERS)
def normed_kernel_by_heads(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr,
                           q_bias_ptr, k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, num_tokens, per_program,
                           cache_rows, cache_stride, qkv_stride, axis_stride, Q_HEADS: tl.constexpr,
                           K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr, EPS: tl.constexpr,
                           WHOLE: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ORDER: tl.constexpr = "",
                           H_PAIRS: tl.constexpr = 0, W_PAIRS: tl.constexpr = 0):
    """Program p takes items ``[p * per_program, (p + 1) * per_program)``.

    Item ``token * UNITS + u`` is the token's u-th block of heads: those of q, with their gates, then those of k, with
    as many of v.
    """
    GATED: tl.constexpr = gate_out_ptr is not None
    BIAS: tl.constexpr = q_bias_ptr is not None
    Q_STRIDE: tl.constexpr = 2 * HEAD_SIZE if GATED else HEAD_SIZE
    Q_UNITS: tl.constexpr = Q_HEADS // BLOCK_Q
    UNITS: tl.constexpr = Q_UNITS + K_HEADS // BLOCK_K
    first = tl.program_id(0) * per_program
    for item in range(first, tl.minimum(first + per_program, num_tokens * UNITS)):
        token = item // UNITS
        unit = item % UNITS
        cos, sin = normed_angles(cos_ptr, sin_ptr, positions_ptr, token, cache_rows, cache_stride, axis_stride, HALF, 1,
                                 ORDER, H_PAIRS, W_PAIRS)
        row = qkv_ptr + token * qkv_stride.to(tl.int64)
        if unit < Q_UNITS:
            head = unit * BLOCK_Q
            x = row + head * Q_STRIDE
            to = token * tl.full((), Q_HEADS * HEAD_SIZE, tl.int64) + head * HEAD_SIZE
            w1, w2, w3 = parameters(q_weight_ptr, HEAD_SIZE, HALF)
            if BIAS:
                b1, b2, b3 = parameters(q_bias_ptr, HEAD_SIZE, HALF)
            else:  # not used
                b1, b2, b3 = w1, w2, w3
            norm_block(x, q_out_ptr + to, qkv_stride, w1, w2, w3, b1, b2, b3, cos, sin, Q_HEADS, HEAD_SIZE, Q_STRIDE,
                       EPS, BIAS, WHOLE, BLOCK_Q)
            if GATED:
                move_block(x + HEAD_SIZE, gate_out_ptr + to, qkv_stride, Q_HEADS, HEAD_SIZE, Q_STRIDE, 1, BLOCK_Q)
        else:
            head = (unit - Q_UNITS) * BLOCK_K
            x = row + Q_HEADS * Q_STRIDE + head * HEAD_SIZE
            to = token * tl.full((), K_HEADS * HEAD_SIZE, tl.int64) + head * HEAD_SIZE
            w1, w2, w3 = parameters(k_weight_ptr, HEAD_SIZE, HALF)
            if BIAS:
                b1, b2, b3 = parameters(k_bias_ptr, HEAD_SIZE, HALF)
            else:
                b1, b2, b3 = w1, w2, w3
            norm_block(x, k_out_ptr + to, qkv_stride, w1, w2, w3, b1, b2, b3, cos, sin, K_HEADS, HEAD_SIZE, HEAD_SIZE,
                       EPS, BIAS, WHOLE, BLOCK_K)
            move_block(x + K_HEADS * HEAD_SIZE, v_out_ptr + to, qkv_stride, K_HEADS, HEAD_SIZE, HEAD_SIZE, 1, BLOCK_K)
# fmt: on


@dataclass(frozen=True)
class NormedByHeads(NormedPlan):
    """Single tokens, each in ``units`` blocks of heads."""

    function = normed_kernel_by_heads
    splits_tokens = True
    block_tokens = 1

    units: int

    @classmethod
    def candidates(cls, shape: NormedShape, device: Device) -> Iterable["NormedByHeads"]:
        """The smallest blocks at least."""
        for most in (1, 4, 8, 16, 32, 64):
            heads, kv_heads = divisor(shape.num_heads, most), divisor(shape.num_kv_heads, most)
            units = ceil_div(shape.num_heads, heads) + ceil_div(shape.num_kv_heads, kv_heads)
            plan = cls(heads, kv_heads, shape.halves_are_blocks, units)
            if plan.fits(shape, device) or most == 1:
                yield plan
