"""Ascend's kernel of norm and rotation: rows of q, k and v side by side become three tensors, in one launch.

Every head of q and of k is normed and rotated (``normed_block.py``); v, and the gate if there is one, are moved.
Programs walk contiguous runs of tokens, in tiles of ``BLOCK_T``; tiles are always full: the last one of a run begins
early enough, and makes a few results once more. A tile's heads are cut into units of ``BLOCK_Q`` heads of q and
``BLOCK_K`` of k; later units may have none of k.

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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.normed_angles import normed_angles
from rope_patch.kernels.normed_block import normed_and_turned
from rope_patch.kernels.normed_heads import (
    biased,
    for_each,
    load_heads,
    move_heads,
    parameters,
    store_heads,
    weighed,
)
from rope_patch.kernels.normed_plan import REGISTER, NormedPlan
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Constant, Device, ceil_div

# Of a tile, whose code is repeated for each row of cosines, and for each unit.
MOST_TOKENS, MOST_UNITS = 16, 4
# As ``arithmetic.NUMBERS``.
NORMED_NUMBERS = ["num_tokens", "per_program", "cache_rows", "cache_stride", "qkv_stride", "axis_stride"]


# Arguments stay grouped by what they are about, not one a line.
# fmt: off
@triton.jit(do_not_specialize=NORMED_NUMBERS)
def normed_kernel_tiles(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr, q_bias_ptr,
                        k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, num_tokens, per_program, cache_rows, cache_stride,
                        qkv_stride, axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                        HALF: tl.constexpr, EPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_Q: tl.constexpr,
                        BLOCK_K: tl.constexpr, K_FIRST: tl.constexpr, ORDER: tl.constexpr = "",
                        H_PAIRS: tl.constexpr = 0, W_PAIRS: tl.constexpr = 0):
    """Program p takes tokens ``[p * per_program, (p + 1) * per_program)``, of at least ``BLOCK_T`` in all."""
    GATED: tl.constexpr = gate_out_ptr is not None
    BIAS: tl.constexpr = q_bias_ptr is not None
    Q_STRIDE: tl.constexpr = 2 * HEAD_SIZE if GATED else HEAD_SIZE
    APART: tl.constexpr = GATED or BLOCK_T > 1
    UNITS: tl.constexpr = Q_HEADS // BLOCK_Q
    K_UNITS: tl.constexpr = K_HEADS // BLOCK_K
    qw1, qw2, qw3 = parameters(q_weight_ptr, HEAD_SIZE, HALF)
    kw1, kw2, kw3 = parameters(k_weight_ptr, HEAD_SIZE, HALF)
    if BIAS:
        qb1, qb2, qb3 = parameters(q_bias_ptr, HEAD_SIZE, HALF)
        kb1, kb2, kb3 = parameters(k_bias_ptr, HEAD_SIZE, HALF)
    else:  # not used
        qb1, qb2, qb3 = qw1, qw2, qw3
        kb1, kb2, kb3 = kw1, kw2, kw3
    if HEAD_SIZE > 2 * HALF:
        qw3 = for_each(qw3, BLOCK_T)
        kw3 = for_each(kw3, BLOCK_K if K_FIRST else BLOCK_T)
    begin = tl.program_id(0) * per_program
    for tile0 in range(begin, tl.minimum(begin + per_program, num_tokens), BLOCK_T):
        token0 = tl.minimum(tile0, num_tokens - BLOCK_T)
        # 64-bit bases: 65,536 tokens of a wide row pass 2**31 elements.
        q_ptr = qkv_ptr + token0 * qkv_stride.to(tl.int64)
        k_ptr = q_ptr + Q_HEADS * Q_STRIDE
        v_ptr = k_ptr + K_HEADS * HEAD_SIZE
        q_to = token0 * tl.full((), Q_HEADS * HEAD_SIZE, tl.int64)
        k_to = token0 * tl.full((), K_HEADS * HEAD_SIZE, tl.int64)
        # The first heads are asked for before the cosines, which take longer to arrive.
        q = load_heads(q_ptr, qkv_stride, Q_STRIDE, False, HEAD_SIZE, BLOCK_T, BLOCK_Q)
        k = load_heads(k_ptr, qkv_stride, HEAD_SIZE, K_FIRST, HEAD_SIZE, BLOCK_T, BLOCK_K)
        cos, sin = normed_angles(cos_ptr, sin_ptr, positions_ptr, token0, cache_rows, cache_stride, axis_stride, HALF,
                                 BLOCK_T, ORDER, H_PAIRS, W_PAIRS)
        q_c1, q_s2, q_c2, q_s1 = weighed(cos, sin, qw1, qw2, False)
        k_c1, k_s2, k_c2, k_s1 = weighed(cos, sin, kw1, kw2, K_FIRST)
        if BIAS:
            q_b1, q_b2 = biased(cos, sin, qb1, qb2, False)
            k_b1, k_b2 = biased(cos, sin, kb1, kb2, K_FIRST)
        else:
            q_b1, q_b2 = q_c1, q_c1
            k_b1, k_b2 = k_c1, k_c1
        for unit in tl.static_range(UNITS):
            if unit > 0:
                q = load_heads(q_ptr + unit * BLOCK_Q * Q_STRIDE, qkv_stride, Q_STRIDE, False, HEAD_SIZE, BLOCK_T,
                               BLOCK_Q)
            if unit > 0 and unit < K_UNITS:
                k = load_heads(k_ptr + unit * BLOCK_K * HEAD_SIZE, qkv_stride, HEAD_SIZE, K_FIRST, HEAD_SIZE, BLOCK_T,
                               BLOCK_K)
            q, k = normed_and_turned(q, k, q_c1, q_s2, q_c2, q_s1, q_b1, q_b2, qw3, qb3, k_c1, k_s2, k_c2, k_s1, k_b1,
                                     k_b2, kw3, kb3, EPS * HEAD_SIZE, BIAS, unit < K_UNITS, APART)
            store_heads(q_out_ptr + q_to + unit * BLOCK_Q * HEAD_SIZE, q, Q_HEADS, False, BLOCK_T, BLOCK_Q)
            if unit < K_UNITS:
                store_heads(k_out_ptr + k_to + unit * BLOCK_K * HEAD_SIZE, k, K_HEADS, K_FIRST, BLOCK_T, BLOCK_K)
                move_heads(v_ptr + unit * BLOCK_K * HEAD_SIZE, v_out_ptr + k_to + unit * BLOCK_K * HEAD_SIZE,
                           qkv_stride, HEAD_SIZE, K_HEADS, HEAD_SIZE, BLOCK_T, BLOCK_K)
            if GATED:
                move_heads(q_ptr + unit * BLOCK_Q * Q_STRIDE + HEAD_SIZE,
                           gate_out_ptr + q_to + unit * BLOCK_Q * HEAD_SIZE, qkv_stride, Q_STRIDE, Q_HEADS, HEAD_SIZE,
                           BLOCK_T, BLOCK_Q)
# fmt: on


class Units(NormedPlan):
    """Heads that can be cut in the unified buffer, in units of some of q and of k."""

    @staticmethod
    def cuts(shape: NormedShape, most: int) -> Iterator[tuple[int, int]]:
        """Heads of q and of k in a unit, of at most so many units, from the smallest to all. Where k's cannot be shared
        out to all units, the first have them."""
        kv_heads = shape.num_kv_heads
        for units in range(most if shape.halves_are_blocks else 0, 0, -1):
            if shape.num_heads % units == 0:
                shares = [share for share in range(1, kv_heads + 1) if kv_heads % share == 0]
                yield shape.num_heads // units, next(share for share in shares if kv_heads // share <= units)


@dataclass(frozen=True)
class NormedTiles(Units):
    """All heads of ``block_tokens`` tokens, block by block."""

    function = normed_kernel_tiles
    units = 1

    block_tokens: int

    @classmethod
    def candidates(cls, shape: NormedShape, device: Device) -> Iterable["NormedTiles"]:
        most = min(MOST_TOKENS, shape.tried_tokens(device))
        for tokens in range(1, most + 1):
            for heads, kv_heads in cls.cuts(shape, MOST_UNITS):
                plan = cls(heads, kv_heads, tokens)
                if plan.fits(shape, device) or tokens == 1:
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
        # Where that takes fewer instructions. Of heads of one register CANN 8.5's compiler refuses it.
        k_first = 1 < self.block_kv_heads < self.block_tokens and shape.head_size > REGISTER
        own: dict[str, Constant] = {"BLOCK_T": self.block_tokens, "K_FIRST": k_first}
        return super().constants(shape, stride_unit) | own
