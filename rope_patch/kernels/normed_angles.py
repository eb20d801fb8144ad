"""A tile's cosines and sines on Ascend, for ``normed.py``: of one position a token or of three (``orders.py``); from
the cache by position, or gathered before by the caller.

Positions are read by the scalar unit, from global memory. So nothing is read back from the unified buffer, where a
missing flag would make wrong rows; and the scalar unit does not wait for loads that are under way.
"""

import triton
import triton.language as tl

from rope_patch.kernels.angles import _selected, shares
from rope_patch.kernels.arithmetic import row_offset

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _rows(ptr, positions_ptr, token0, cache_rows, cache_stride, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
          IN_PART: tl.constexpr):
    """``[BLOCK_T, LANES]`` of the tile's tokens, in fp32. Rows of which a part is read are read one by one: CANN
    8.5's compiler would take them for contiguous ones (``normed_block.part_of``)."""
    lanes = tl.arange(0, LANES)[None, :]
    BY_TOKEN: tl.constexpr = positions_ptr is None
    if BY_TOKEN and not IN_PART:
        first = ptr + token0 * cache_stride.to(tl.int64)
        rows = tl.load(first + tl.arange(0, BLOCK_T)[:, None] * cache_stride + lanes).to(tl.float32)
    else:
        rows = tl.zeros((BLOCK_T, LANES), tl.float32)
        # Each into a buffer of its own: a load into a part of a buffer waits for the one before.
        for t in tl.static_range(BLOCK_T):
            if BY_TOKEN:
                row = (token0 + t) * cache_stride.to(tl.int64)
            else:
                row = row_offset(tl.load(positions_ptr + token0 + t), cache_rows, cache_stride)
            rows = tl.insert_slice(rows, tl.load(ptr + row + lanes).to(tl.float32), (t, 0), (1, LANES), (1, 1))
    return rows


@triton.jit
def _cos_sin(cos_ptr, sin_ptr, positions_ptr, token0, cache_rows, cache_stride, HALF: tl.constexpr,
             BLOCK_T: tl.constexpr):
    """In fp32, ``[BLOCK_T, HALF]`` each. Without ``sin_ptr``, rows are cosines, then sines."""
    if sin_ptr is None and HALF % 16 == 0:
        both = _rows(cos_ptr, positions_ptr, token0, cache_rows, cache_stride, 2 * HALF, BLOCK_T, False)
        cos = tl.extract_slice(both, (0, 0), (BLOCK_T, HALF), (1, 1))
        sin = tl.extract_slice(both, (0, HALF), (BLOCK_T, HALF), (1, 1))
    elif sin_ptr is None:  # sines would not begin at a whole block of the unified buffer
        cos = _rows(cos_ptr, positions_ptr, token0, cache_rows, cache_stride, HALF, BLOCK_T, True)
        sin = _rows(cos_ptr + HALF, positions_ptr, token0, cache_rows, cache_stride, HALF, BLOCK_T, True)
    else:
        cos = _rows(cos_ptr, positions_ptr, token0, cache_rows, cache_stride, HALF, BLOCK_T, True)
        sin = _rows(sin_ptr, positions_ptr, token0, cache_rows, cache_stride, HALF, BLOCK_T, True)
    return cos, sin


@triton.jit
def normed_angles(cos_ptr, sin_ptr, positions_ptr, token0, cache_rows, cache_stride, axis_stride, HALF: tl.constexpr,
                  BLOCK_T: tl.constexpr, ORDER: tl.constexpr, H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr):
    """The fp32 cos and sin of a full tile's tokens, ``[BLOCK_T, HALF]`` each."""
    cos, sin = _cos_sin(cos_ptr, sin_ptr, positions_ptr, token0, cache_rows, cache_stride, HALF, BLOCK_T)
    if ORDER != "":
        # Positions of an axis, or rows that were gathered for them, follow those of the one before.
        if positions_ptr is None:
            cos_h, sin_h = _cos_sin(cos_ptr + axis_stride, sin_ptr, None, token0, cache_rows, cache_stride, HALF,
                                    BLOCK_T)
            cos_w, sin_w = _cos_sin(cos_ptr + 2 * axis_stride.to(tl.int64), sin_ptr, None, token0, cache_rows,
                                    cache_stride, HALF, BLOCK_T)
        else:
            cos_h, sin_h = _cos_sin(cos_ptr, sin_ptr, positions_ptr + axis_stride, token0, cache_rows, cache_stride,
                                    HALF, BLOCK_T)
            cos_w, sin_w = _cos_sin(cos_ptr, sin_ptr, positions_ptr + 2 * axis_stride, token0, cache_rows,
                                    cache_stride, HALF, BLOCK_T)
        h, w = shares(tl.arange(0, HALF), HALF, ORDER, H_PAIRS, W_PAIRS)
        t_bits = (h + w - 1)[None, :]
        h_bits = (-h)[None, :]
        w_bits = (-w)[None, :]
        cos = _selected(t_bits, cos, h_bits, cos_h, w_bits, cos_w)
        sin = _selected(t_bits, sin, h_bits, sin_h, w_bits, sin_w)
    return cos, sin
