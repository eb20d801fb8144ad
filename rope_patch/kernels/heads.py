"""Parts of the Triton kernel: a tile's cosines and sines, and one block of heads rotated by them.

``rope.py`` says what the constexpr arguments mean.
"""

import triton
import triton.language as tl

from rope_patch.kernels.pairs import slices_apart, slices_together, words_apart, words_together

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _narrow(x, dtype: tl.constexpr, TRUNCATING_CAST: tl.constexpr):
    """fp32 -> dtype, to nearest even."""
    if TRUNCATING_CAST and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        # Adding just under half of the last kept place, plus its parity, makes truncation round to nearest even.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
        x = tl.where(x == x, rounded, x)  # a NaN's payload must not be carried into its sign
    return x.to(dtype)


@triton.jit
def positions_of(positions_ptr, token0, tokens_left, BLOCK_T: tl.constexpr, MASKED: tl.constexpr):
    """The tile's positions, ``[BLOCK_T]``; a scalar for one token: triton-ascend 3.2.0 cannot gather by one row."""
    t = tl.arange(0, BLOCK_T)
    if BLOCK_T == 1:
        position = tl.load(positions_ptr + token0)
    elif MASKED:
        position = tl.load(positions_ptr + token0 + t, mask=t < tokens_left, other=0)
    else:
        position = tl.load(positions_ptr + token0 + t)
    return position


@triton.jit
def cos_sin_of(cache_ptr, position, cache_rows, cache_stride, HALF: tl.constexpr, HALF_LANES: tl.constexpr,
             BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BIG_CACHE: tl.constexpr, WIDE_ROWS: tl.constexpr,
             PADDED: tl.constexpr, VECTOR: tl.constexpr):
    """The fp32 cos and sin of the tile's tokens, ``[BLOCK_T, 1 or BLOCK_H, HALF_LANES]`` each."""
    # 32 bits: vectors of int64 are scalar code on Ascend. Whatever a position holds, the row read is in the cache.
    row = tl.minimum(tl.maximum(position.to(tl.int32), 0), cache_rows - 1)
    if BIG_CACHE:
        row = row.to(tl.int64)
    row = row * cache_stride
    if BLOCK_T > 1:
        row = row[:, None]
    lane = tl.arange(0, HALF_LANES)[None, :]
    if WIDE_ROWS:
        both = tl.load(cache_ptr + row + tl.arange(0, 2 * HALF)[None, :]).to(tl.float32)
        cos = tl.extract_slice(both, (0, 0), (BLOCK_T, HALF), (1, 1))[:, None, :]
        sin = tl.extract_slice(both, (0, HALF), (BLOCK_T, HALF), (1, 1))[:, None, :]
    elif PADDED:
        # Each thread fetches the lanes it needs, VECTOR at a time, through its L1: no exchange between threads.
        address = tl.max_contiguous(cache_ptr + row + lane, (1, VECTOR))
        address = address[:, None, :] + tl.zeros((1, BLOCK_H, 1), tl.int32)
        mask = (lane < HALF)[:, None, :]
        cos = tl.load(address, mask=mask, other=0.0).to(tl.float32)
        sin = tl.load(address + HALF, mask=mask, other=0.0).to(tl.float32)
    else:
        cos = tl.load(cache_ptr + row + lane).to(tl.float32)[:, None, :]
        sin = tl.load(cache_ptr + row + lane + HALF).to(tl.float32)[:, None, :]
    return cos, sin


@triton.jit
def _mask(tokens_left, head0, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
          LANES: tl.constexpr, PADDED: tl.constexpr):
    """Which elements of a ``[BLOCK_T, BLOCK_H, LANES]`` block exist."""
    mask = (tl.arange(0, BLOCK_T) < tokens_left)[:, None, None]
    if PADDED:
        heads = (head0 + tl.arange(0, BLOCK_H) < HEADS)[None, :, None]
        mask = mask & heads & (tl.arange(0, LANES) < WIDTH)[None, None, :]
    return mask


@triton.jit
def _block(token_stride, head_stride, LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    """Offsets of a ``[BLOCK_T, BLOCK_H, LANES]`` block from its first element; 32 bits (``plan.MAX_TILE_OFFSET``)."""
    t = tl.arange(0, BLOCK_T)[:, None, None] * token_stride
    h = tl.arange(0, BLOCK_H)[None, :, None] * head_stride
    return t + h + tl.arange(0, LANES)[None, None, :]


@triton.jit
def _load(address, mask, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(address, mask=mask, other=0.0)
    else:
        return tl.load(address)


@triton.jit
def _store(address, value, mask, MASKED: tl.constexpr):
    if MASKED:
        tl.store(address, value, mask=mask)
    else:
        tl.store(address, value)


@triton.jit
def rotate_heads(x_ptr, out_ptr, cache_ptr, position, cos, sin, head0, token0, tokens_left, token_stride, head_stride,
                  cache_rows, cache_stride, HEADS: tl.constexpr, BLOCK_H: tl.constexpr, HEAD_SIZE: tl.constexpr,
                  HALF: tl.constexpr, PAIRS: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr,
                  BLOCK_T: tl.constexpr, TAIL: tl.constexpr, BIG_CACHE: tl.constexpr, WIDE_HEADS: tl.constexpr,
                  WIDE_ROWS: tl.constexpr, PADDED: tl.constexpr, VECTOR: tl.constexpr,
                  TRUNCATING_CAST: tl.constexpr):
    """Rotate ``BLOCK_H`` heads of q, or of k, for one tile of tokens, into ``out_ptr``, or in place if that is None.

    ``cos`` and ``sin`` of None are gathered here, once the heads are on their way: the two then wait together.
    """
    MASKED: tl.constexpr = TAIL or PADDED
    IN_PLACE: tl.constexpr = out_ptr is None  # the same pointer, never a second argument for the same memory
    IS_NEOX: tl.constexpr = PAIRS == "halves"
    WORDS: tl.constexpr = PAIRS == "bf16 words" or PAIRS == "fp16 words"
    TURNED: tl.constexpr = HALF if WORDS else 2 * HALF  # lanes, or words, of a head's rotary part
    REST: tl.constexpr = 0 if IN_PLACE else HEAD_SIZE - TURNED
    dtype: tl.constexpr = (
        x_ptr.dtype.element_ty if not WORDS else tl.bfloat16 if PAIRS == "bf16 words" else tl.float16
    )
    # Bases are 64-bit scalars: 65,536 tokens of a wide qkv row pass 2**31 elements.
    x = x_ptr + token0 * token_stride.to(tl.int64) + head0 * head_stride
    if IN_PLACE:
        y = x
        y_token_stride = token_stride
        y_head_stride = head_stride
    else:
        y = out_ptr + token0 * tl.full((), HEADS * HEAD_SIZE, tl.int64) + head0 * HEAD_SIZE
        y_token_stride = HEADS * HEAD_SIZE
        y_head_stride = HEAD_SIZE
    # What is moved at once: a whole head, or its rotary part, or half of that. GPT-J's pairs are loaded side by side
    # and taken apart afterwards: stride-2 accesses are scalar loops on Ascend.
    if WIDE_HEADS:
        WIDTH: tl.constexpr = TURNED + REST
        LANES: tl.constexpr = WIDTH
    elif IS_NEOX:
        WIDTH: tl.constexpr = HALF
        LANES: tl.constexpr = HALF_LANES
    else:
        WIDTH: tl.constexpr = TURNED
        LANES: tl.constexpr = HALF_LANES if WORDS else 2 * HALF_LANES
    mask = _mask(tokens_left, head0, HEADS, WIDTH, BLOCK_T, BLOCK_H, LANES, PADDED)
    x_at = x + _block(token_stride, head_stride, LANES, BLOCK_T, BLOCK_H)
    y_at = y + _block(y_token_stride, y_head_stride, LANES, BLOCK_T, BLOCK_H)
    moved = _load(x_at, mask, MASKED)
    if IS_NEOX and not WIDE_HEADS:
        second = _load(x_at + HALF, mask, MASKED)
    if REST > 0 and not WIDE_HEADS:
        rest_mask = _mask(tokens_left, head0, HEADS, REST, BLOCK_T, BLOCK_H, REST_LANES, PADDED)
        rest_at = TURNED + _block(token_stride, head_stride, REST_LANES, BLOCK_T, BLOCK_H)
        rest = _load(x + rest_at, rest_mask, MASKED)
        rest_to = TURNED + _block(y_token_stride, y_head_stride, REST_LANES, BLOCK_T, BLOCK_H)
        _store(y + rest_to, rest, rest_mask, MASKED)
    if cos is None:
        cos, sin = cos_sin_of(cache_ptr, position, cache_rows, cache_stride, HALF, HALF_LANES, BLOCK_T, BLOCK_H,
                            BIG_CACHE, WIDE_ROWS, PADDED, VECTOR)
    if IS_NEOX:
        if WIDE_HEADS:
            x1 = tl.extract_slice(moved, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1)).to(tl.float32)
            x2 = tl.extract_slice(moved, (0, 0, HALF), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1)).to(tl.float32)
        else:
            x1 = moved.to(tl.float32)
            x2 = second.to(tl.float32)
        y1 = _narrow(x1 * cos - x2 * sin, dtype, TRUNCATING_CAST)
        y2 = _narrow(x2 * cos + x1 * sin, dtype, TRUNCATING_CAST)
        if WIDE_HEADS:
            moved = tl.insert_slice(moved, y1, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
            moved = tl.insert_slice(moved, y2, (0, 0, HALF), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
            _store(y_at, moved, mask, MASKED)
        else:
            _store(y_at, y1, mask, MASKED)
            _store(y_at + HALF, y2, mask, MASKED)
    elif WORDS:
        if WIDE_HEADS and REST > 0:
            words = tl.extract_slice(moved, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
        else:
            words = moved
        x1, x2 = words_apart(words, dtype)
        y1 = _narrow(x1 * cos - x2 * sin, dtype, TRUNCATING_CAST)
        y2 = _narrow(x2 * cos + x1 * sin, dtype, TRUNCATING_CAST)
        turned = words_together(y1, y2)
        if WIDE_HEADS and REST > 0:
            turned = tl.insert_slice(moved, turned, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
        _store(y_at, turned, mask, MASKED)
    elif PAIRS == "slices":
        x1, x2 = slices_apart(moved, BLOCK_T, BLOCK_H, HALF)
        y1 = _narrow(x1 * cos - x2 * sin, dtype, TRUNCATING_CAST)
        y2 = _narrow(x2 * cos + x1 * sin, dtype, TRUNCATING_CAST)
        _store(y_at, slices_together(moved, y1, y2, BLOCK_T, BLOCK_H, HALF), mask, MASKED)
    else:
        x1, x2 = tl.split(tl.reshape(moved.to(tl.float32), (BLOCK_T, BLOCK_H, HALF_LANES, 2)))
        turned = tl.reshape(tl.join(x1 * cos - x2 * sin, x2 * cos + x1 * sin), (BLOCK_T, BLOCK_H, 2 * HALF_LANES))
        _store(y_at, _narrow(turned, dtype, TRUNCATING_CAST), mask, MASKED)
