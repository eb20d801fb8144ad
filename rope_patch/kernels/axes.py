"""Several positions a token (vLLM's MRoPE): which of a token's three cache rows each pair of lanes turns by.

A token of an image has a position in time, one in height and one in width. Its cosines and sines are those of three
rows of the cache, each pair of lanes taking one axis. ``axes`` says which, as a string with one of the letters t, h and
w for each pair, such as "tthhhwww". The kernels know three orders of them:

* ``"chunked"``: the pairs of t, then those of h, then those of w (Qwen2-VL, GLM-4.1V);
* ``"interleaved"``: t, h and w in turns; where h or w is used up, and at the end, t (Qwen3-VL);
* ``"alternating"``: h and w in turns, then t (ERNIE-4.5-VL).

The rows are selected in fp32, once for a tile of tokens, before the heads are touched: by their bits, so that what a
pair of lanes does not take may be infinite or NaN. The selection follows from constexpr numbers, so it reads no memory.
"""

import functools

import triton
import triton.language as tl

from rope_patch.kernels.heads import cos_sin_of, positions_of

# Arguments stay grouped by what they are about, not one a line.
# fmt: off

ORDERS = ("chunked", "interleaved", "alternating")


def lanes(order: str, half: int, h: int, w: int) -> str:
    """The axes of ``half`` pairs of lanes, of which so many (at most) are of h and of w."""
    if order == "chunked":
        return "t" * (half - h - w) + "h" * h + "w" * w
    if order == "interleaved":
        return "".join("thw"[lane % 3] if lane < 3 * (0, h, w)[lane % 3] else "t" for lane in range(half))
    return "".join("hw"[lane % 2] if lane < 2 * (h, w)[lane % 2] else "t" for lane in range(half))


@functools.cache
def order_of(axes: str) -> tuple[str, int, int] | None:
    """The order of these axes, and how many pairs are of h and of w; None for an order that no kernel knows."""
    h, w = axes.count("h"), axes.count("w")
    return next(((order, h, w) for order in ORDERS if lanes(order, len(axes), h, w) == axes), None)


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
    position = positions_of(positions_ptr, token0, tokens_left, BLOCK_T)
    cos, sin = cos_sin_of(cache_ptr, position, cache_rows, cache_stride, HALF, BLOCK_T, WIDE_ROWS)
    if ORDER != "":
        of_height = positions_of(positions_ptr + axis_stride, token0, tokens_left, BLOCK_T)
        of_width = positions_of(positions_ptr + 2 * axis_stride, token0, tokens_left, BLOCK_T)
        cos_h, sin_h = cos_sin_of(cache_ptr, of_height, cache_rows, cache_stride, HALF, BLOCK_T, WIDE_ROWS)
        cos_w, sin_w = cos_sin_of(cache_ptr, of_width, cache_rows, cache_stride, HALF, BLOCK_T, WIDE_ROWS)
        h, w = shares(tl.arange(0, HALF), HALF, ORDER, H_PAIRS, W_PAIRS)
        t_bits = (h + w - 1)[None, None, :]
        h_bits = (-h)[None, None, :]
        w_bits = (-w)[None, None, :]
        cos = _selected(t_bits, cos, h_bits, cos_h, w_bits, cos_w)
        sin = _selected(t_bits, sin, h_bits, sin_h, w_bits, sin_w)
    return cos, sin
