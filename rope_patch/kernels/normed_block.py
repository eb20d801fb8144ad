"""Heads of q and of k on Ascend, side by side: RMS norm of each head, and the rotation of its first lanes (NeoX).

With x the lanes of a head, w the weight, b the bias (if any) and r = 1 / sqrt(mean(x * x) + eps)::

    n = x * r * w + b
    y1 = n1 * cos - n2 * sin
    y2 = n2 * cos + n1 * sin

All in fp32; each result is rounded once. Weight and bias are multiplied into the tile's cosines and sines, once for all
heads: so many passes over the heads less.

A head is three parts: the lanes 1 and 2 of its pairs, and the rest, which is normed only. With ``WHOLE``, whole heads
are moved, and cut in the unified buffer; else each part by itself.
"""

import triton
import triton.language as tl

from rope_patch.kernels.arithmetic import block_offsets

# Arguments stay grouped by what they are about, not one a line.
# fmt: off

# Lanes of fp32: a block of the unified buffer, and what a vector instruction takes at once.
EIGHT, REGISTER = tl.constexpr(8), tl.constexpr(64)


@triton.jit
def lanes_of(x, FIRST: tl.constexpr, COUNT: tl.constexpr):
    return tl.extract_slice(x, (0, 0, FIRST), (x.shape[0], x.shape[1], COUNT), (1, 1, 1))


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
def load_part(ptr, token_stride, HEAD_STRIDE: tl.constexpr, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
              BLOCK_H: tl.constexpr):
    return tl.load(ptr + block_offsets(token_stride, HEAD_STRIDE, LANES, BLOCK_T, BLOCK_H))


@triton.jit
def store_part(ptr, value, HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr):
    at = block_offsets(HEADS * HEAD_SIZE, HEAD_SIZE, value.shape[2], value.shape[0], value.shape[1])
    tl.store(ptr + at, value)


@triton.jit
def _sums_of_blocks(x, FACTOR: tl.constexpr):
    """Sums over the last lanes of ``[BLOCK_T, BLOCK_H, lanes]``, in whole registers, times ``FACTOR``.

    In steps of eight lanes, by the instruction that adds blocks, which is five times as fast as the one that adds all.
    Between them is the factor, or the compiler would make one step of both, for which its library has no code.
    """
    ROWS: tl.constexpr = x.shape[0] * x.shape[1]
    BLOCKS: tl.constexpr = x.shape[2] // EIGHT
    sums = tl.sum(x.reshape(ROWS * BLOCKS, EIGHT), axis=1) * FACTOR
    sums = sums.reshape(ROWS, BLOCKS)
    if BLOCKS > EIGHT:
        folded = tl.extract_slice(sums, (0, 0), (ROWS, EIGHT), (1, 1))
        for begin in tl.static_range(EIGHT, BLOCKS, EIGHT):
            folded += tl.extract_slice(sums, (0, begin), (ROWS, EIGHT), (1, 1))
        sums = folded
    return tl.sum(sums, axis=1).reshape(x.shape[0], x.shape[1])


@triton.jit
def norm_block(x_ptr, y_ptr, token_stride, w1, w2, w3, b1, b2, b3, cos, sin, HEADS: tl.constexpr,
               HEAD_SIZE: tl.constexpr, HEAD_STRIDE: tl.constexpr, EPS: tl.constexpr, BIAS: tl.constexpr,
               WHOLE: tl.constexpr, BLOCK_H: tl.constexpr):
    """``BLOCK_H`` heads of q or of k of a full tile, from where ``x_ptr`` points; weights and biases in their parts."""
    BLOCK_T: tl.constexpr = cos.shape[0]
    HALF: tl.constexpr = cos.shape[2]
    REST: tl.constexpr = HEAD_SIZE - 2 * HALF
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    if WHOLE:
        moved = load_part(x_ptr, token_stride, HEAD_STRIDE, HEAD_SIZE, BLOCK_T, BLOCK_H)
        x1 = lanes_of(moved, 0, HALF).to(tl.float32)
        x2 = lanes_of(moved, HALF, HALF).to(tl.float32)
        if REST > 0:
            x3 = lanes_of(moved, 2 * HALF, REST).to(tl.float32)
    else:
        x1 = load_part(x_ptr, token_stride, HEAD_STRIDE, HALF, BLOCK_T, BLOCK_H).to(tl.float32)
        x2 = load_part(x_ptr + HALF, token_stride, HEAD_STRIDE, HALF, BLOCK_T, BLOCK_H).to(tl.float32)
        if REST > 0:
            x3 = load_part(x_ptr + 2 * HALF, token_stride, HEAD_STRIDE, REST, BLOCK_T, BLOCK_H).to(tl.float32)
    if HALF % REGISTER == 0 and REST == 0:
        mean = _sums_of_blocks(x1 * x1 + x2 * x2, 1.0 / HEAD_SIZE)
    elif HEAD_SIZE % REGISTER == 0 and WHOLE:
        wide = moved.to(tl.float32)
        mean = _sums_of_blocks(wide * wide, 1.0 / HEAD_SIZE)
    else:
        mean = tl.sum(x1 * x1 + x2 * x2, axis=2)
        if REST > 0:
            mean += tl.sum(x3 * x3, axis=2)
        mean = mean * (1.0 / HEAD_SIZE)
    inverse = (1.0 / tl.sqrt(mean + EPS))[:, :, None]
    x1 = x1 * inverse
    x2 = x2 * inverse
    x1_cos = x1 * (cos * w1)
    x2_sin = x2 * (sin * w2)
    x2_cos = x2 * (cos * w2)
    x1_sin = x1 * (sin * w1)
    y1 = x1_cos - x2_sin
    y2 = x2_cos + x1_sin
    if BIAS:
        y1 += b1 * cos - b2 * sin
        y2 += b2 * cos + b1 * sin
    if REST > 0:
        y3 = x3 * inverse * w3
        if BIAS:
            y3 += b3
    if WHOLE:
        moved = tl.insert_slice(moved, y1.to(dtype), (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
        moved = tl.insert_slice(moved, y2.to(dtype), (0, 0, HALF), (BLOCK_T, BLOCK_H, HALF), (1, 1, 1))
        if REST > 0:
            moved = tl.insert_slice(moved, y3.to(dtype), (0, 0, 2 * HALF), (BLOCK_T, BLOCK_H, REST), (1, 1, 1))
        store_part(y_ptr, moved, HEADS, HEAD_SIZE)
    else:
        store_part(y_ptr, y1.to(dtype), HEADS, HEAD_SIZE)
        store_part(y_ptr + HALF, y2.to(dtype), HEADS, HEAD_SIZE)
        if REST > 0:
            store_part(y_ptr + 2 * HALF, y3.to(dtype), HEADS, HEAD_SIZE)


@triton.jit
def move_block(x_ptr, y_ptr, token_stride, HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HEAD_STRIDE: tl.constexpr,
               BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    """``BLOCK_H`` heads of v, or of the gate, moved as they are."""
    store_part(y_ptr, load_part(x_ptr, token_stride, HEAD_STRIDE, HEAD_SIZE, BLOCK_T, BLOCK_H), HEADS, HEAD_SIZE)
