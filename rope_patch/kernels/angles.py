"""A tile's cosines and sines on Ascend: of one position a token, or of three (``orders.py``).

The rows of three positions are selected in fp32, once for a tile of tokens, before the heads are touched: by their
bits, so that what a pair of lanes does not take may be infinite or NaN. The selection follows from constexpr numbers,
so it reads no memory.
"""

import triton
import triton.language as tl

from rope_patch.kernels.arithmetic import row_offset

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _positions(positions_ptr, token0, tokens_left, BLOCK_T: tl.constexpr):
    """The tile's positions, ``[BLOCK_T]``; a scalar for one token: triton-ascend 3.2.0 cannot gather by one row."""
    t = tl.arange(0, BLOCK_T)
    if BLOCK_T == 1:
        position = tl.load(positions_ptr + token0)
    elif tokens_left is not None:
        position = tl.load(positions_ptr + token0 + t, mask=t < tokens_left, other=0)
    else:
        position = tl.load(positions_ptr + token0 + t)
    return position


@triton.jit
def _cos_sin(cache_ptr, position, cache_rows, cache_stride, HALF: tl.constexpr, BLOCK_T: tl.constexpr,
               WIDE_ROWS: tl.constexpr):
    """The fp32 cos and sin of the tile's tokens, ``[BLOCK_T, 1, HALF]`` each."""
    row = row_offset(position, cache_rows, cache_stride)
    if BLOCK_T > 1:
        row = row[:, None]
    if WIDE_ROWS:
        both = tl.load(cache_ptr + row + tl.arange(0, 2 * HALF)[None, :]).to(tl.float32)
        cos = tl.extract_slice(both, (0, 0), (BLOCK_T, HALF), (1, 1))
        sin = tl.extract_slice(both, (0, HALF), (BLOCK_T, HALF), (1, 1))
    else:
        cos = tl.load(cache_ptr + row + tl.arange(0, HALF)[None, :]).to(tl.float32)
        sin = tl.load(cache_ptr + row + tl.arange(0, HALF)[None, :] + HALF).to(tl.float32)
    return cos[:, None, :], sin[:, None, :]


@triton.jit
def _below(lane, LIMIT: tl.constexpr):
    return tl.minimum(tl.maximum(LIMIT - lane, 0), 1)


@triton.jit
def shares(lane, HALF: tl.constexpr, ORDER: tl.constexpr, H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr):
    """What of a pair's angle comes from the position in height, and what from that in width: each 0 or 1, in int32.

    By sums and products, since of integers Ascend compares only for equality in its vector unit and divides none; and
    its selection by booleans stores through the scalar unit, which compilers do not put in order with later loads into
    the same memory. Nor is a cast to integers and back used to round: compilers remove both.
    """
    if ORDER == "chunked":
        before_w = _below(lane, HALF - W_PAIRS)
        h = before_w - _below(lane, HALF - H_PAIRS - W_PAIRS)
        w = 1 - before_w
    elif ORDER == "interleaved":
        # Its third, rounded down. The bits that are shifted out are zeros, since CANN's shift rounds.
        third = ((lane * 43691) & -131072) >> 17
        rest = lane - 3 * third
        second = tl.maximum(rest - 1, 0)
        h = (rest - 2 * second) * _below(lane, 3 * H_PAIRS)
        w = second * _below(lane, 3 * W_PAIRS)
    else:
        odd = lane & 1
        h = (1 - odd) * _below(lane, 2 * H_PAIRS)
        w = odd * _below(lane, 2 * W_PAIRS)
    return h, w


@triton.jit
def _selected(t_bits, of_t, h_bits, of_h, w_bits, of_w):
    """Each lane's fp32 is that of the axis whose mask has all bits set there; the other masks have none."""
    t = of_t.to(tl.int32, bitcast=True) & t_bits
    h = of_h.to(tl.int32, bitcast=True) & h_bits
    w = of_w.to(tl.int32, bitcast=True) & w_bits
    return (t | h | w).to(tl.float32, bitcast=True)


@triton.jit
def angles_of(positions_ptr, axis_stride, cache_ptr, token0, tokens_left, cache_rows, cache_stride,
              HALF: tl.constexpr, BLOCK_T: tl.constexpr, WIDE_ROWS: tl.constexpr, ORDER: tl.constexpr,
              H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr):
    """Ascend's: the fp32 cos and sin of a tile's tokens, ``[BLOCK_T, 1, HALF]`` each.

    An ``ORDER`` of "" means one position a token. Rows are cut apart before the lanes are selected: of a slice of what
    was computed from ``arange``, triton-ascend 3.2.0 makes the first lane's value in every lane.
    """
    position = _positions(positions_ptr, token0, tokens_left, BLOCK_T)
    cos, sin = _cos_sin(cache_ptr, position, cache_rows, cache_stride, HALF, BLOCK_T, WIDE_ROWS)
    if ORDER != "":
        of_height = _positions(positions_ptr + axis_stride, token0, tokens_left, BLOCK_T)
        of_width = _positions(positions_ptr + 2 * axis_stride, token0, tokens_left, BLOCK_T)
        cos_h, sin_h = _cos_sin(cache_ptr, of_height, cache_rows, cache_stride, HALF, BLOCK_T, WIDE_ROWS)
        cos_w, sin_w = _cos_sin(cache_ptr, of_width, cache_rows, cache_stride, HALF, BLOCK_T, WIDE_ROWS)
        h, w = shares(tl.arange(0, HALF), HALF, ORDER, H_PAIRS, W_PAIRS)
        t_bits = (h + w - 1)[None, None, :]
        h_bits = (-h)[None, None, :]
        w_bits = (-w)[None, None, :]
        cos = _selected(t_bits, cos, h_bits, cos_h, w_bits, cos_w)
        sin = _selected(t_bits, sin, h_bits, sin_h, w_bits, sin_w)
    return cos, sin


@triton.jit
def for_heads(angles, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HALF: tl.constexpr):
    """``[BLOCK_T, 1, HALF]`` once for each head of a block, so that a step over the block is one instruction.

    A broadcast is undone by the compiler, which then takes an instruction for each token. Slices put in are not; but
    each is a copy, which pays only where blocks have many tokens and few heads.
    """
    each = tl.zeros((BLOCK_T, BLOCK_H, HALF), tl.float32)
    for head in tl.static_range(BLOCK_H):
        each = tl.insert_slice(each, angles, (0, head, 0), (BLOCK_T, 1, HALF), (1, 1, 1))
    return each
