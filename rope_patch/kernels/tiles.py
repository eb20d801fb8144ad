"""Ascend's kernel for many tokens: programs walk contiguous runs of tokens, in tiles ``[tokens, heads, lanes]``.

A tile's cos/sin rows are gathered once, by position, and serve every head of q and of k. The arithmetic is fp32
(``arithmetic.py``); each output element is rounded once, to the tensor's dtype.

Arguments that all kernels of a rotation take: pointers, of which an output's is None for in place; numbers
(``arithmetic.NUMBERS``); and constexpr ones:

* ``Q_HEADS``, ``K_HEADS``, ``HEAD_SIZE``, ``HALF``: what q and k are; ``K_HEADS`` of 0 means that there is no key, and
  ``HALF`` is half of the rotary dim.
* ``ORDER``, ``H_PAIRS``, ``W_PAIRS``: which of a token's three positions each pair of lanes turns by (``orders.py``);
  the positions of an axis then begin ``axis_stride`` after those of the one before. By default a token has one
  position, and ``axis_stride`` is None.

Those of this kernel, beside ``block.py``'s and ``angles.py``'s:

* ``BLOCK_T``, ``BLOCK_Q``, ``BLOCK_K``: tokens of a tile, and heads of q and of k that are turned at once.
* ``OVERLAP``: see ``rotary_kernel_tiles``.
* ``BY_HEAD``: cos and sin are copied for each head of a block (``for_heads``); q's and k's are then of equal size.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.angles import angles_of, for_heads
from rope_patch.kernels.arithmetic import NUMBERS
from rope_patch.kernels.block import turn_block
from rope_patch.kernels.blocks import Blocks, cuts, divisor, halves_are_blocks
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Constant, Device, ceil_div
from rope_patch.kernels.planning import MANY_TOKENS, SOME_TOKENS
from rope_patch.kernels.shape import Shape


# Arguments stay grouped by what they are about, not one a line.
# fmt: off
@triton.jit
def _turn_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, token0, tokens_left, cache_rows,
               cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride, axis_stride,
               Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr,
               PAIRS: tl.constexpr, WHOLE: tl.constexpr, WIDE_ROWS: tl.constexpr, BY_HEAD: tl.constexpr,
               BLOCK_T: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ORDER: tl.constexpr,
               H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr):
    """A full tile, or a masked one of ``tokens_left`` tokens."""
    cos, sin = angles_of(positions_ptr, axis_stride, cache_ptr, token0, tokens_left, cache_rows, cache_stride, HALF,
                         BLOCK_T, WIDE_ROWS, ORDER, H_PAIRS, W_PAIRS)
    if BY_HEAD:
        cos = for_heads(cos, BLOCK_T, BLOCK_Q, HALF)
        sin = for_heads(sin, BLOCK_T, BLOCK_Q, HALF)
    for head0 in range(0, Q_HEADS, BLOCK_Q):
        turn_block(q_ptr, q_out_ptr, token0, head0, tokens_left, q_token_stride, q_head_stride, cos, sin, Q_HEADS,
                   HEAD_SIZE, PAIRS, WHOLE, BLOCK_Q)
    if K_HEADS > 0:
        for head0 in range(0, K_HEADS, BLOCK_K):
            turn_block(k_ptr, k_out_ptr, token0, head0, tokens_left, k_token_stride, k_head_stride, cos, sin, K_HEADS,
                       HEAD_SIZE, PAIRS, WHOLE, BLOCK_K)


@triton.jit(do_not_specialize=NUMBERS)
def rotary_kernel_tiles(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, per_program,
                        cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                        axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                        HALF: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr, WIDE_ROWS: tl.constexpr,
                        OVERLAP: tl.constexpr, BY_HEAD: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_Q: tl.constexpr,
                        BLOCK_K: tl.constexpr, ORDER: tl.constexpr = "", H_PAIRS: tl.constexpr = 0,
                        W_PAIRS: tl.constexpr = 0):
    """Program p rotates tokens ``[p * per_program, (p + 1) * per_program)``, in tiles of ``BLOCK_T``.

    What is left for the last tile is masked; but with ``OVERLAP`` (of fresh outputs, at least ``BLOCK_T`` tokens), that
    tile begins early enough to be full, and makes a few results once more: a masked load costs filling, and waiting.
    """
    FRESH: tl.constexpr = (q_out_ptr is not None) and (k_out_ptr is not None or K_HEADS == 0)
    EARLY: tl.constexpr = OVERLAP and FRESH
    begin = tl.program_id(0) * per_program
    end = tl.minimum(begin + per_program, num_tokens)
    full = end if EARLY else begin + (end - begin) // BLOCK_T * BLOCK_T
    for tile0 in range(begin, full, BLOCK_T):
        token0 = tl.minimum(tile0, num_tokens - BLOCK_T) if EARLY else tile0
        _turn_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, token0, None, cache_rows,
                   cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride, axis_stride, Q_HEADS,
                   K_HEADS, HEAD_SIZE, HALF, PAIRS, WHOLE, WIDE_ROWS, BY_HEAD, BLOCK_T, BLOCK_Q, BLOCK_K, ORDER,
                   H_PAIRS, W_PAIRS)
    if BLOCK_T > 1 and not EARLY:  # noqa: SIM102  (decided when compiling; the inner one at run time)
        if full < end:
            _turn_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, full, end - full, cache_rows,
                       cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride, axis_stride, Q_HEADS,
                       K_HEADS, HEAD_SIZE, HALF, PAIRS, WHOLE, WIDE_ROWS, BY_HEAD, BLOCK_T, BLOCK_Q, BLOCK_K, ORDER,
                       H_PAIRS, W_PAIRS)
# fmt: on


@dataclass(frozen=True)
class Tiles(Blocks):
    """All heads of ``block_tokens`` tokens, block by block."""

    function = rotary_kernel_tiles
    units = 1

    block_tokens: int
    overlap: bool
    by_head: bool = False

    @classmethod
    def candidates(cls, shape: Shape, device: Device) -> Iterable["Tiles"]:
        """All tiles that fit: of as many tokens as a core gets of a number of tokens, or an even part of them.

        Nothing may fit if even one head is too large; then it is that one, and the compiler has the last word.
        """
        # A row is no wider than it is from the next one, so this has room for the last row's width too.
        most = min(shape.tried_tokens(device), MAX_TILE_OFFSET // max(1, shape.token_stride))
        if not halves_are_blocks(shape):
            most = 1
        per_core = [ceil_div(tokens, device.max_programs) for tokens in (*SOME_TOKENS, *MANY_TOKENS)]
        heights = {1} | {ceil_div(each, parts) for each in per_core for parts in range(1, each + 1)}
        ways = [(cut, cut[0] == cut[1] > 1) for heads in _heads_at_once(shape) for cut in cuts(shape, *heads)]
        for tokens in sorted(height for height in heights if height <= max(1, most)):
            for cut, alike in ways:
                for by_head in (False, True) if alike and tokens > 1 else (False,):
                    plan = cls(*cut, block_tokens=tokens, overlap=shape.fresh and tokens > 1, by_head=by_head)
                    if plan.fits(shape, device) or tokens * cut[0] * cut[1] == 1:
                        yield plan

    @property
    def least_tokens(self) -> int:
        """A tile that may overlap the one before it must always be full."""
        return self.block_tokens if self.overlap else 1

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """(number of programs, how many tokens each takes).

        Programs take contiguous runs of whole tiles; the last run may be shorter. Where tiles may overlap, the runs are
        as even as possible instead.
        """
        programs, tiles = super().grid(num_tokens, device)
        if self.overlap:
            each = ceil_div(num_tokens, programs)
            return ceil_div(num_tokens, each), each
        return programs, tiles * self.block_tokens

    def constants(self, shape: Shape, stride_unit: int = 1) -> dict[str, Constant]:
        own: dict[str, Constant] = {"OVERLAP": self.overlap, "BY_HEAD": self.by_head, "BLOCK_T": self.block_tokens}
        return super().constants(shape, stride_unit) | own


def _heads_at_once(shape: Shape) -> list[tuple[int, int]]:
    """Sizes of blocks of heads of q and of k that are worth a look: equal ones; and a whole, a half, a quarter or an
    eighth of q's heads with as many of k's as that, at most."""
    common = math.gcd(shape.num_heads, shape.num_kv_heads)
    equal = {(block, block if shape.num_kv_heads else 1) for block in range(1, common + 1) if common % block == 0}
    most = [ceil_div(max(1, shape.num_heads), parts) for parts in (1, 2, 4, 8)]
    return sorted(equal | {(divisor(shape.num_heads, m), divisor(shape.num_kv_heads, m)) for m in most})
