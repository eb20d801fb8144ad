"""One block of heads on Ascend, turned by its tokens' cosines and sines.

Nothing is rounded up to a power of two and masked. Constexpr arguments, decided by ``blocks.py``:

* ``PAIRS``: where the two lanes of a pair are, and how they are taken apart. ``"halves"``: NeoX. GPT-J's lie side by
  side: as ``"bf16 words"`` or ``"fp16 words"`` each pair is an aligned int32 (pointers, strides and HEAD_SIZE then
  count words), else by ``"slices"``: ``pairs.py``.
* ``WHOLE``: whole heads are moved at once and cut in the unified buffer; else each part of a head by itself, which
  needs no copy in there, and lets parts move while others are at work.
"""

import triton
import triton.language as tl

from rope_patch.kernels.arithmetic import block_offsets, turned
from rope_patch.kernels.pairs import slices_apart, slices_together, words_apart, words_together

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


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
def _turned_words(words, cos, sin, dtype: tl.constexpr):
    x1, x2 = words_apart(words, dtype)
    y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
    return words_together(y1.to(dtype), y2.to(dtype))


@triton.jit
def _turned_slices(moved, cos, sin, BLOCK_H: tl.constexpr):
    BLOCK_T: tl.constexpr = cos.shape[0]
    HALF: tl.constexpr = cos.shape[2]
    x1, x2 = slices_apart(moved, BLOCK_T, BLOCK_H, HALF)
    y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
    return slices_together(moved, y1.to(moved.dtype), y2.to(moved.dtype), BLOCK_T, BLOCK_H, HALF)


@triton.jit
def _whole_turned(moved, cos, sin, dtype: tl.constexpr, PAIRS: tl.constexpr, TURNED: tl.constexpr, WIDTH: tl.constexpr,
                  BLOCK_H: tl.constexpr):
    """``WIDTH`` lanes, or words, of each head, of which the first ``TURNED`` are turned."""
    BLOCK_T: tl.constexpr = cos.shape[0]
    HALF: tl.constexpr = cos.shape[2]
    if PAIRS == "halves":
        x1 = tl.extract_slice(moved, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1)).to(tl.float32)
        x2 = tl.extract_slice(moved, (0, 0, HALF), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1)).to(tl.float32)
        y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
        moved = tl.insert_slice(moved, y1.to(dtype), (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
        moved = tl.insert_slice(moved, y2.to(dtype), (0, 0, HALF), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
    elif WIDTH > TURNED:
        words = tl.extract_slice(moved, (0, 0, 0), (BLOCK_T, BLOCK_H, TURNED), (1, 1, 1))
        words = _turned_words(words, cos, sin, dtype)
        moved = tl.insert_slice(moved, words, (0, 0, 0), (BLOCK_T, BLOCK_H, TURNED), (1, 1, 1))
    else:
        moved = _turned_words(moved, cos, sin, dtype)
    return moved


@triton.jit
def turn_block(x_ptr, out_ptr, token0, head0, tokens_left, token_stride, head_stride, cos, sin,
               HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr,
               BLOCK_H: tl.constexpr):
    """``BLOCK_H`` heads of one tensor, from ``head0`` on. ``tokens_left`` of None: as many as a tile has."""
    BLOCK_T: tl.constexpr = cos.shape[0]
    HALF: tl.constexpr = cos.shape[2]
    IN_PLACE: tl.constexpr = out_ptr is None  # the same pointer, never a second argument for the same memory
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
    if WHOLE:
        moved = _load(x, token_stride, head_stride, tokens_left, TURNED + REST, BLOCK_T, BLOCK_H)
        moved = _whole_turned(moved, cos, sin, dtype, PAIRS, TURNED, TURNED + REST, BLOCK_H)
        _store(y, moved, y_token_stride, y_head_stride, tokens_left, TURNED + REST, BLOCK_T, BLOCK_H)
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
        else:
            moved = _turned_words(moved, cos, sin, dtype) if WORDS else _turned_slices(moved, cos, sin, BLOCK_H)
            _store(y, moved, y_token_stride, y_head_stride, tokens_left, TURNED, BLOCK_T, BLOCK_H)
