"""Heads of a tile on Ascend, for norm and rotation: loaded, stored and moved; and the weights and angles they turn by.

A block is ``[tokens, heads, lanes]``. One of k may have ``HEADS_FIRST``: products with cosines take an instruction for
each of the first axis.
"""

import triton
import triton.language as tl

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _offsets(token_stride, head_stride, HEADS_FIRST: tl.constexpr, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
             BLOCK_H: tl.constexpr):
    t = tl.arange(0, BLOCK_T) * token_stride
    h = tl.arange(0, BLOCK_H) * head_stride
    rows = h[:, None, None] + t[None, :, None] if HEADS_FIRST else t[:, None, None] + h[None, :, None]
    return rows + tl.arange(0, LANES)[None, None, :]


@triton.jit
def load_heads(ptr, token_stride, head_stride, HEADS_FIRST: tl.constexpr, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
               BLOCK_H: tl.constexpr):
    return tl.load(ptr + _offsets(token_stride, head_stride, HEADS_FIRST, LANES, BLOCK_T, BLOCK_H))


@triton.jit
def store_heads(ptr, heads, HEADS: tl.constexpr, HEADS_FIRST: tl.constexpr, BLOCK_T: tl.constexpr,
                BLOCK_H: tl.constexpr):
    """Into a contiguous tensor of ``HEADS`` heads."""
    LANES: tl.constexpr = heads.shape[2]
    tl.store(ptr + _offsets(HEADS * LANES, LANES, HEADS_FIRST, LANES, BLOCK_T, BLOCK_H), heads)


@triton.jit
def move_heads(x_ptr, y_ptr, token_stride, head_stride, HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
               BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    """Heads of v, or of the gate, as they are."""
    heads = load_heads(x_ptr, token_stride, head_stride, False, HEAD_SIZE, BLOCK_T, BLOCK_H)
    store_heads(y_ptr, heads, HEADS, False, BLOCK_T, BLOCK_H)


@triton.jit
def _parameter(ptr, COUNT: tl.constexpr):
    return tl.load(ptr + tl.arange(0, COUNT)).to(tl.float32)[None, None, :]


@triton.jit
def parameters(ptr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr):
    """The three parts of a weight or of a bias in fp32, ``[1, 1, lanes]`` each."""
    first = _parameter(ptr, HALF)
    second = _parameter(ptr + HALF, HALF)
    rest = _parameter(ptr + 2 * HALF, HEAD_SIZE - 2 * HALF) if HEAD_SIZE > 2 * HALF else first  # or not used
    return first, second, rest


@triton.jit
def for_each(lanes, COUNT: tl.constexpr):
    """``[1, 1, lanes]`` as ``[COUNT, 1, lanes]``: of a broadcast along two axes the compiler would make as many copies
    as a block has heads, and keep them."""
    if COUNT > 1:
        each = tl.zeros((COUNT, 1, lanes.shape[2]), tl.float32)
        for n in tl.static_range(COUNT):
            each = tl.insert_slice(each, lanes, (n, 0, 0), (1, 1, lanes.shape[2]), (1, 1, 1))
        lanes = each
    return lanes


@triton.jit
def weighed(cos, sin, w1, w2, HEADS_FIRST: tl.constexpr):
    """Cosines and sines, ``[BLOCK_T, HALF]``, times both halves of a weight; tokens on the axis where a block has
    them."""
    cos = cos[None, :, :] if HEADS_FIRST else cos[:, None, :]
    sin = sin[None, :, :] if HEADS_FIRST else sin[:, None, :]
    return cos * w1, sin * w2, cos * w2, sin * w1


@triton.jit
def biased(cos, sin, b1, b2, HEADS_FIRST: tl.constexpr):
    """What a bias adds to both halves of the results."""
    cos = cos[None, :, :] if HEADS_FIRST else cos[:, None, :]
    sin = sin[None, :, :] if HEADS_FIRST else sin[:, None, :]
    return b1 * cos - b2 * sin, b2 * cos + b1 * sin
