"""Parts of Ascend's kernels: a tile's cosines and sines, and one block of heads rotated by them.

Nothing is rounded up to a power of two and masked; ``rope.py`` says what the constexpr arguments mean.
"""

import triton
import triton.language as tl

from rope_patch.kernels.arithmetic import block_offsets, row_offset, turned
from rope_patch.kernels.pairs import slices_apart, slices_together, words_apart, words_together

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def positions_of(positions_ptr, token0, tokens_left, BLOCK_T: tl.constexpr):
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
def cos_sin_of(cache_ptr, position, cache_rows, cache_stride, HALF: tl.constexpr, BLOCK_T: tl.constexpr,
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
def for_heads(angles, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HALF: tl.constexpr):
    """``[BLOCK_T, 1, HALF]`` once for each head of a block, so that a step over the block is one instruction.

    A broadcast is undone by the compiler, which then takes an instruction for each token. Slices put in are not; but
    each is a copy, which pays only where blocks have many tokens and few heads.
    """
    each = tl.zeros((BLOCK_T, BLOCK_H, HALF), tl.float32)
    for head in tl.static_range(BLOCK_H):
        each = tl.insert_slice(each, angles, (0, head, 0), (BLOCK_T, 1, HALF), (1, 1, 1))
    return each


@triton.jit
def _load(ptr, token_stride, head_stride, tokens_left, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
          BLOCK_H: tl.constexpr):
    at = ptr + block_offsets(token_stride, head_stride, LANES, BLOCK_T, BLOCK_H)
    if tokens_left is not None:
        return tl.load(at, mask=(tl.arange(0, BLOCK_T) < tokens_left)[:, None, None], other=0.0)
    else:
        return tl.load(at)


@triton.jit
def _store(ptr, value, token_stride, head_stride, tokens_left, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
           BLOCK_H: tl.constexpr):
    at = ptr + block_offsets(token_stride, head_stride, LANES, BLOCK_T, BLOCK_H)
    if tokens_left is not None:
        tl.store(at, value, mask=(tl.arange(0, BLOCK_T) < tokens_left)[:, None, None])
    else:
        tl.store(at, value)


@triton.jit
def rotate_heads(x_ptr, out_ptr, token0, tokens_left, token_stride, head_stride, cos, sin,
                 HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr,
                 BLOCK_H: tl.constexpr):
    """All heads of one tensor for a tile of tokens, into ``out_ptr``, or in place if that is None."""
    for head0 in range(0, HEADS, BLOCK_H):
        rotate_block(x_ptr, out_ptr, token0, head0, tokens_left, token_stride, head_stride, cos, sin, HEADS,
                     HEAD_SIZE, PAIRS, WHOLE, BLOCK_H)


@triton.jit
def rotate_block(x_ptr, out_ptr, token0, head0, tokens_left, token_stride, head_stride, cos, sin,
                 HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr,
                 BLOCK_H: tl.constexpr):
    """``BLOCK_H`` heads of one tensor, from ``head0`` on. ``tokens_left`` of None: as many as a tile has."""
    BLOCK_T: tl.constexpr = cos.shape[0]
    HALF: tl.constexpr = cos.shape[2]
    IN_PLACE: tl.constexpr = out_ptr is None  # the same pointer, never a second argument for the same memory
    WORDS: tl.constexpr = PAIRS == "bf16 words" or PAIRS == "fp16 words"
    TURNED: tl.constexpr = HALF if WORDS else 2 * HALF  # lanes, or words, of a head's rotary part
    REST: tl.constexpr = 0 if IN_PLACE else HEAD_SIZE - TURNED
    WIDTH: tl.constexpr = TURNED + REST
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
    if WHOLE:
        moved = _load(x, token_stride, head_stride, tokens_left, WIDTH, BLOCK_T, BLOCK_H)
        if PAIRS == "halves":
            x1 = tl.extract_slice(moved, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1)).to(tl.float32)
            x2 = tl.extract_slice(moved, (0, 0, HALF), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1)).to(tl.float32)
            y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
            moved = tl.insert_slice(moved, y1.to(dtype), (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
            moved = tl.insert_slice(moved, y2.to(dtype), (0, 0, HALF), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
        else:
            words = tl.extract_slice(moved, (0, 0, 0), (BLOCK_T, BLOCK_H, TURNED), (1, 1, 1)) if REST > 0 else moved
            x1, x2 = words_apart(words, dtype)
            y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
            words = words_together(y1.to(dtype), y2.to(dtype))
            if REST > 0:
                moved = tl.insert_slice(moved, words, (0, 0, 0), (BLOCK_T, BLOCK_H, TURNED), (1, 1, 1))
            else:
                moved = words
        _store(y, moved, y_token_stride, y_head_stride, tokens_left, WIDTH, BLOCK_T, BLOCK_H)
    else:
        if PAIRS == "halves":
            first = _load(x, token_stride, head_stride, tokens_left, HALF, BLOCK_T, BLOCK_H)
            second = _load(x + HALF, token_stride, head_stride, tokens_left, HALF, BLOCK_T, BLOCK_H)
        else:
            moved = _load(x, token_stride, head_stride, tokens_left, TURNED, BLOCK_T, BLOCK_H)
        if REST > 0:
            rest = _load(x + TURNED, token_stride, head_stride, tokens_left, REST, BLOCK_T, BLOCK_H)
            _store(y + TURNED, rest, y_token_stride, y_head_stride, tokens_left, REST, BLOCK_T, BLOCK_H)
        if PAIRS == "halves":
            y1, y2 = turned(first.to(tl.float32), second.to(tl.float32), cos, sin, PRODUCTS_FIRST=True)
            _store(y, y1.to(dtype), y_token_stride, y_head_stride, tokens_left, HALF, BLOCK_T, BLOCK_H)
            _store(y + HALF, y2.to(dtype), y_token_stride, y_head_stride, tokens_left, HALF, BLOCK_T, BLOCK_H)
        elif WORDS:
            x1, x2 = words_apart(moved, dtype)
            y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
            words = words_together(y1.to(dtype), y2.to(dtype))
            _store(y, words, y_token_stride, y_head_stride, tokens_left, TURNED, BLOCK_T, BLOCK_H)
        else:
            x1, x2 = slices_apart(moved, BLOCK_T, BLOCK_H, HALF)
            y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
            moved = slices_together(moved, y1.to(dtype), y2.to(dtype), BLOCK_T, BLOCK_H, HALF)
            _store(y, moved, y_token_stride, y_head_stride, tokens_left, TURNED, BLOCK_T, BLOCK_H)
