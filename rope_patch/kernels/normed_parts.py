"""Ascend's kernel of norm and rotation for heads whose halves are not whole blocks of the unified buffer.

They cannot be cut in there, so each part of a head is moved by itself. Programs take blocks of heads of single tokens,
however many tokens there are. ``normed.py`` says what the arguments are, ``normed_block.py`` what is computed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.arithmetic import turned
from rope_patch.kernels.blocks import divisor
from rope_patch.kernels.normed import NORMED_NUMBERS
from rope_patch.kernels.normed_angles import normed_angles
from rope_patch.kernels.normed_block import load_heads, move_heads, parameters
from rope_patch.kernels.normed_plan import NormedPlan
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Device, ceil_div

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _store_part(ptr, part, HEAD_SIZE: tl.constexpr):
    head = tl.arange(0, part.shape[1])[None, :, None] * HEAD_SIZE
    tl.store(ptr + head + tl.arange(0, part.shape[2])[None, None, :], part)


@triton.jit
def _norm_heads(x_ptr, y_ptr, token_stride, w_ptr, b_ptr, cos, sin, HEAD_SIZE: tl.constexpr, HEAD_STRIDE: tl.constexpr,
                EPS: tl.constexpr, BLOCK_H: tl.constexpr):
    """``BLOCK_H`` heads of one token, from where ``x_ptr`` points."""
    HALF: tl.constexpr = cos.shape[2]
    REST: tl.constexpr = HEAD_SIZE - 2 * HALF
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    x1 = load_heads(x_ptr, token_stride, HEAD_STRIDE, False, HALF, 1, BLOCK_H).to(tl.float32)
    x2 = load_heads(x_ptr + HALF, token_stride, HEAD_STRIDE, False, HALF, 1, BLOCK_H).to(tl.float32)
    total = tl.sum(x1 * x1 + x2 * x2, axis=2)
    if REST > 0:
        x3 = load_heads(x_ptr + 2 * HALF, token_stride, HEAD_STRIDE, False, REST, 1, BLOCK_H).to(tl.float32)
        total += tl.sum(x3 * x3, axis=2)
    inverse = (1.0 / tl.sqrt(total * (1.0 / HEAD_SIZE) + EPS))[:, :, None]
    w1, w2, w3 = parameters(w_ptr, HEAD_SIZE, HALF)
    x1 = x1 * inverse * w1
    x2 = x2 * inverse * w2
    if b_ptr is not None:
        b1, b2, b3 = parameters(b_ptr, HEAD_SIZE, HALF)
        x1 += b1
        x2 += b2
    y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
    _store_part(y_ptr, y1.to(dtype), HEAD_SIZE)
    _store_part(y_ptr + HALF, y2.to(dtype), HEAD_SIZE)
    if REST > 0:
        x3 = x3 * inverse * w3
        if b_ptr is not None:
            x3 += b3
        _store_part(y_ptr + 2 * HALF, x3.to(dtype), HEAD_SIZE)


@triton.jit(do_not_specialize=NORMED_NUMBERS)
def normed_kernel_parts(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr, q_bias_ptr,
                        k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, num_tokens, per_program, cache_rows, cache_stride,
                        qkv_stride, axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                        HALF: tl.constexpr, EPS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
                        ORDER: tl.constexpr = "", H_PAIRS: tl.constexpr = 0, W_PAIRS: tl.constexpr = 0):
    """Program p takes items ``[p * per_program, (p + 1) * per_program)``.

    Item ``token * UNITS + u`` is the token's u-th block of heads: those of q, with their gates, then those of k, with
    as many of v.
    """
    GATED: tl.constexpr = gate_out_ptr is not None
    Q_STRIDE: tl.constexpr = 2 * HEAD_SIZE if GATED else HEAD_SIZE
    Q_UNITS: tl.constexpr = Q_HEADS // BLOCK_Q
    UNITS: tl.constexpr = Q_UNITS + K_HEADS // BLOCK_K
    first = tl.program_id(0) * per_program
    for item in range(first, tl.minimum(first + per_program, num_tokens * UNITS)):
        token = item // UNITS
        unit = item % UNITS
        cos, sin = normed_angles(cos_ptr, sin_ptr, positions_ptr, token, cache_rows, cache_stride, axis_stride, HALF, 1,
                                 ORDER, H_PAIRS, W_PAIRS)
        cos = cos[:, None, :]
        sin = sin[:, None, :]
        row = qkv_ptr + token * qkv_stride.to(tl.int64)
        if unit < Q_UNITS:
            head = unit * BLOCK_Q
            x = row + head * Q_STRIDE
            to = token * tl.full((), Q_HEADS * HEAD_SIZE, tl.int64) + head * HEAD_SIZE
            _norm_heads(x, q_out_ptr + to, qkv_stride, q_weight_ptr, q_bias_ptr, cos, sin, HEAD_SIZE, Q_STRIDE, EPS,
                        BLOCK_Q)
            if GATED:
                move_heads(x + HEAD_SIZE, gate_out_ptr + to, qkv_stride, Q_STRIDE, Q_HEADS, HEAD_SIZE, 1, BLOCK_Q)
        else:
            head = (unit - Q_UNITS) * BLOCK_K
            x = row + Q_HEADS * Q_STRIDE + head * HEAD_SIZE
            to = token * tl.full((), K_HEADS * HEAD_SIZE, tl.int64) + head * HEAD_SIZE
            _norm_heads(x, k_out_ptr + to, qkv_stride, k_weight_ptr, k_bias_ptr, cos, sin, HEAD_SIZE, HEAD_SIZE, EPS,
                        BLOCK_K)
            move_heads(x + K_HEADS * HEAD_SIZE, v_out_ptr + to, qkv_stride, HEAD_SIZE, K_HEADS, HEAD_SIZE, 1, BLOCK_K)
# fmt: on


@dataclass(frozen=True)
class NormedParts(NormedPlan):
    """Single tokens, each in ``units`` blocks of heads."""

    function = normed_kernel_parts
    block_tokens = 1

    units: int

    @classmethod
    def candidates(cls, shape: NormedShape, device: Device) -> Iterable["NormedParts"]:
        """The smallest blocks at least; none for heads that can be cut."""
        for most in () if shape.halves_are_blocks else (1, 4, 16):
            heads, kv_heads = divisor(shape.num_heads, most), divisor(shape.num_kv_heads, most)
            plan = cls(heads, kv_heads, ceil_div(shape.num_heads, heads) + ceil_div(shape.num_kv_heads, kv_heads))
            if plan.fits(shape, device) or most == 1:
                yield plan
