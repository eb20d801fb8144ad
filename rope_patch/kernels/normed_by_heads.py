"""Ascend's kernel of norm and rotation for few tokens: programs take units of heads of single tokens.

``normed.py`` says what the arguments are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.normed import NORMED_NUMBERS, Units
from rope_patch.kernels.normed_angles import normed_angles
from rope_patch.kernels.normed_block import normed_and_turned
from rope_patch.kernels.normed_heads import (
    biased,
    load_heads,
    move_heads,
    parameters,
    store_heads,
    weighed,
)
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Device


# Arguments stay grouped by what they are about, not one a line.
# fmt: off
@triton.jit
def _norm_unit(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr, q_bias_ptr,
               k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, token, unit, cache_rows, cache_stride, qkv_stride,
               axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr,
               EPS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ORDER: tl.constexpr,
               H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr, WITH_K: tl.constexpr):
    """One unit of one token, with heads of k and v or without."""
    GATED: tl.constexpr = gate_out_ptr is not None
    BIAS: tl.constexpr = q_bias_ptr is not None
    Q_STRIDE: tl.constexpr = 2 * HEAD_SIZE if GATED else HEAD_SIZE
    row = qkv_ptr + token * qkv_stride.to(tl.int64)
    q_ptr = row + unit * (BLOCK_Q * Q_STRIDE)
    k_ptr = row + Q_HEADS * Q_STRIDE + unit * (BLOCK_K * HEAD_SIZE)
    q_to = token * tl.full((), Q_HEADS * HEAD_SIZE, tl.int64) + unit * (BLOCK_Q * HEAD_SIZE)
    k_to = token * tl.full((), K_HEADS * HEAD_SIZE, tl.int64) + unit * (BLOCK_K * HEAD_SIZE)
    q = load_heads(q_ptr, qkv_stride, Q_STRIDE, False, HEAD_SIZE, 1, BLOCK_Q)
    k = load_heads(k_ptr, qkv_stride, HEAD_SIZE, False, HEAD_SIZE, 1, BLOCK_K) if WITH_K else q
    cos, sin = normed_angles(cos_ptr, sin_ptr, positions_ptr, token, cache_rows, cache_stride, axis_stride, HALF, 1,
                             ORDER, H_PAIRS, W_PAIRS)
    qw1, qw2, qw3 = parameters(q_weight_ptr, HEAD_SIZE, HALF)
    q_c1, q_s2, q_c2, q_s1 = weighed(cos, sin, qw1, qw2, False)
    if WITH_K:
        kw1, kw2, kw3 = parameters(k_weight_ptr, HEAD_SIZE, HALF)
        k_c1, k_s2, k_c2, k_s1 = weighed(cos, sin, kw1, kw2, False)
    else:  # not used
        kw3, k_c1, k_s2, k_c2, k_s1 = qw3, q_c1, q_s2, q_c2, q_s1
    if BIAS:
        qb1, qb2, qb3 = parameters(q_bias_ptr, HEAD_SIZE, HALF)
        q_b1, q_b2 = biased(cos, sin, qb1, qb2, False)
        kb1, kb2, kb3 = parameters(k_bias_ptr, HEAD_SIZE, HALF)
        k_b1, k_b2 = biased(cos, sin, kb1, kb2, False)
    else:
        q_b1, q_b2, qb3, k_b1, k_b2, kb3 = q_c1, q_c1, qw3, k_c1, k_c1, kw3
    q, k = normed_and_turned(q, k, q_c1, q_s2, q_c2, q_s1, q_b1, q_b2, qw3, qb3, k_c1, k_s2, k_c2, k_s1, k_b1, k_b2,
                             kw3, kb3, EPS * HEAD_SIZE, BIAS, WITH_K, GATED)
    store_heads(q_out_ptr + q_to, q, Q_HEADS, False, 1, BLOCK_Q)
    if WITH_K:
        store_heads(k_out_ptr + k_to, k, K_HEADS, False, 1, BLOCK_K)
        move_heads(k_ptr + K_HEADS * HEAD_SIZE, v_out_ptr + k_to, qkv_stride, HEAD_SIZE, K_HEADS, HEAD_SIZE, 1, BLOCK_K)
    if GATED:
        move_heads(q_ptr + HEAD_SIZE, gate_out_ptr + q_to, qkv_stride, Q_STRIDE, Q_HEADS, HEAD_SIZE, 1, BLOCK_Q)


@triton.jit(do_not_specialize=NORMED_NUMBERS)
def normed_kernel_by_heads(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr,
                           q_bias_ptr, k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, num_tokens, per_program,
                           cache_rows, cache_stride, qkv_stride, axis_stride, Q_HEADS: tl.constexpr,
                           K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr, EPS: tl.constexpr,
                           BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ORDER: tl.constexpr = "",
                           H_PAIRS: tl.constexpr = 0, W_PAIRS: tl.constexpr = 0):
    """Program p takes items ``[p * per_program, (p + 1) * per_program)``: item ``token * UNITS + u`` is the token's
    u-th unit."""
    UNITS: tl.constexpr = Q_HEADS // BLOCK_Q
    K_UNITS: tl.constexpr = K_HEADS // BLOCK_K
    first = tl.program_id(0) * per_program
    for item in range(first, tl.minimum(first + per_program, num_tokens * UNITS)):
        token = item // UNITS
        unit = item % UNITS
        if UNITS == K_UNITS or unit < K_UNITS:
            _norm_unit(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr, q_bias_ptr,
                       k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, token, unit, cache_rows, cache_stride, qkv_stride,
                       axis_stride, Q_HEADS, K_HEADS, HEAD_SIZE, HALF, EPS, BLOCK_Q, BLOCK_K, ORDER, H_PAIRS, W_PAIRS,
                       True)
        else:
            _norm_unit(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr, q_bias_ptr,
                       k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, token, unit, cache_rows, cache_stride, qkv_stride,
                       axis_stride, Q_HEADS, K_HEADS, HEAD_SIZE, HALF, EPS, BLOCK_Q, BLOCK_K, ORDER, H_PAIRS, W_PAIRS,
                       False)
# fmt: on


@dataclass(frozen=True)
class NormedByHeads(Units):
    """Single tokens, each in ``units``."""

    function = normed_kernel_by_heads
    splits_tokens = True
    block_tokens = 1

    units: int

    @classmethod
    def candidates(cls, shape: NormedShape, device: Device) -> Iterable["NormedByHeads"]:
        for heads, kv_heads in cls.cuts(shape, shape.num_heads):
            plan = cls(heads, kv_heads, units=shape.num_heads // heads)
            if plan.fits(shape, device) or heads == 1:
                yield plan
