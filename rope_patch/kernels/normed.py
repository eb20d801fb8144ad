"""Ascend's kernel of norm and rotation: rows of q, k and v side by side become three tensors, in one launch.

Every head of q and of k is normed and rotated (``normed_block.py``); v, and the gate if there is one, are moved.
Programs walk contiguous runs of tokens, in tiles of ``BLOCK_T``; tiles are always full: the last one of a run begins
early enough, and makes a few results once more.

Arguments that all kernels of this operator take: pointers; numbers (``NORMED_NUMBERS``); and constexpr ones.

* ``qkv_ptr``: a token's heads, beside each other: those of q, each followed by its gate if there is one, those of k,
  those of v. ``qkv_stride`` is from a token to the next.
* ``q_out_ptr``, ``k_out_ptr``, ``v_out_ptr``, ``gate_out_ptr``: contiguous; no gate's is None.
* ``q_weight_ptr``, ``k_weight_ptr``, ``q_bias_ptr``, ``k_bias_ptr``: ``HEAD_SIZE`` numbers each, of any type; no biases
  are None.
* ``cos_ptr``, ``sin_ptr``, ``positions_ptr``: with positions, ``cos_ptr`` is the cache, whose rows are cosines, then
  sines, and positions are clamped to its rows. Positions of None: row t is that of token t. With a ``sin_ptr`` that is
  not None, rows of sines are there, and ``cos_ptr``'s have cosines only (first halves are read). ``cache_stride`` is
  from a row to the next.
* ``axis_stride``: with three positions a token (``ORDER``, ``H_PAIRS``, ``W_PAIRS``: ``orders.py``), from an axis to
  the next: of positions, or of gathered rows. None for one position.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.normed_angles import normed_angles
from rope_patch.kernels.normed_block import move_block, norm_block, parameters
from rope_patch.kernels.normed_plan import NormedPlan
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Constant, Device, ceil_div

# As ``arithmetic.NUMBERS``.
NORMED_NUMBERS = ["num_tokens", "per_program", "cache_rows", "cache_stride", "qkv_stride", "axis_stride"]


# Arguments stay grouped by what they are about, not one a line.
# fmt: off
@triton.jit(do_not_specialize=NORMED_NUMBERS)
def normed_kernel_tiles(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr, q_bias_ptr,
                        k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, num_tokens, per_program, cache_rows, cache_stride,
                        qkv_stride, axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                        HALF: tl.constexpr, EPS: tl.constexpr, WHOLE: tl.constexpr, BLOCK_T: tl.constexpr,
                        BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ORDER: tl.constexpr = "",
                        H_PAIRS: tl.constexpr = 0, W_PAIRS: tl.constexpr = 0):
    """Program p takes tokens ``[p * per_program, (p + 1) * per_program)``, of at least ``BLOCK_T`` in all."""
    GATED: tl.constexpr = gate_out_ptr is not None
    BIAS: tl.constexpr = q_bias_ptr is not None
    Q_STRIDE: tl.constexpr = 2 * HEAD_SIZE if GATED else HEAD_SIZE
    qw1, qw2, qw3 = parameters(q_weight_ptr, HEAD_SIZE, HALF)
    kw1, kw2, kw3 = parameters(k_weight_ptr, HEAD_SIZE, HALF)
    if BIAS:
        qb1, qb2, qb3 = parameters(q_bias_ptr, HEAD_SIZE, HALF)
        kb1, kb2, kb3 = parameters(k_bias_ptr, HEAD_SIZE, HALF)
    else:  # not used
        qb1, qb2, qb3 = qw1, qw2, qw3
        kb1, kb2, kb3 = kw1, kw2, kw3
    begin = tl.program_id(0) * per_program
    for tile0 in range(begin, tl.minimum(begin + per_program, num_tokens), BLOCK_T):
        token0 = tl.minimum(tile0, num_tokens - BLOCK_T)
        cos, sin = normed_angles(cos_ptr, sin_ptr, positions_ptr, token0, cache_rows, cache_stride, axis_stride, HALF,
                                 BLOCK_T, ORDER, H_PAIRS, W_PAIRS)
        # 64-bit bases: 65,536 tokens of a wide row pass 2**31 elements.
        q = qkv_ptr + token0 * qkv_stride.to(tl.int64)
        k = q + Q_HEADS * Q_STRIDE
        v = k + K_HEADS * HEAD_SIZE
        q_rows = token0 * tl.full((), Q_HEADS * HEAD_SIZE, tl.int64)
        k_rows = token0 * tl.full((), K_HEADS * HEAD_SIZE, tl.int64)
        for head in range(0, Q_HEADS, BLOCK_Q):
            norm_block(q + head * Q_STRIDE, q_out_ptr + q_rows + head * HEAD_SIZE, qkv_stride, qw1, qw2, qw3, qb1, qb2,
                       qb3, cos, sin, Q_HEADS, HEAD_SIZE, Q_STRIDE, EPS, BIAS, WHOLE, BLOCK_Q)
            if GATED:
                move_block(q + head * Q_STRIDE + HEAD_SIZE, gate_out_ptr + q_rows + head * HEAD_SIZE, qkv_stride,
                           Q_HEADS, HEAD_SIZE, Q_STRIDE, BLOCK_T, BLOCK_Q)
        for head in range(0, K_HEADS, BLOCK_K):
            norm_block(k + head * HEAD_SIZE, k_out_ptr + k_rows + head * HEAD_SIZE, qkv_stride, kw1, kw2, kw3, kb1,
                       kb2, kb3, cos, sin, K_HEADS, HEAD_SIZE, HEAD_SIZE, EPS, BIAS, WHOLE, BLOCK_K)
            move_block(v + head * HEAD_SIZE, v_out_ptr + k_rows + head * HEAD_SIZE, qkv_stride, K_HEADS, HEAD_SIZE,
                       HEAD_SIZE, BLOCK_T, BLOCK_K)
# fmt: on


@dataclass(frozen=True)
class NormedTiles(NormedPlan):
    """All heads of ``block_tokens`` tokens, block by block."""

    function = normed_kernel_tiles
    units = 1

    block_tokens: int

    @classmethod
    def candidates(cls, shape: NormedShape, device: Device) -> Iterable["NormedTiles"]:
        most = shape.tried_tokens(device)
        whole = shape.halves_are_blocks
        blocks = [block for block in range(1, shape.num_heads + 1) if shape.num_heads % block == 0]
        for tokens in range(1, min(16, most) + 1):
            for block in blocks:
                plan = cls(block, math.gcd(shape.num_kv_heads, block), whole, tokens)
                if plan.fits(shape, device) or tokens * block == 1:
                    yield plan

    @property
    def least_tokens(self) -> int:
        """Tiles are always full."""
        return self.block_tokens

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """(number of programs, how many tokens each takes): as even as possible."""
        tiles = ceil_div(num_tokens, self.block_tokens)
        each = ceil_div(num_tokens, min(tiles, device.max_programs))
        return ceil_div(num_tokens, each), each

    def constants(self, shape: NormedShape, stride_unit: int = 1) -> dict[str, Constant]:
        return super().constants(shape, stride_unit) | {"BLOCK_T": self.block_tokens}
