"""Kernels with the transfers and the arithmetic that published ones are described with, to calibrate the model on.

Reconstructions: the originals' sources were read for what they move and when, not copied. What the originals' compiler
made of them is not known.
"""

import triton
import triton.language as tl

# fmt: off


@triton.jit
def smallest(x_ptr, BLOCK: tl.constexpr):
    """One load, one addition, one store."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at) + 1.0)


@triton.jit
def _rotated(x, cos, sin, T: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr):
    first = tl.extract_slice(x, (0, 0, 0), (T, HEADS, HALF), (1, 1, 1))
    second = tl.extract_slice(x, (0, 0, HALF), (T, HEADS, HALF), (1, 1, 1))
    x = tl.insert_slice(x, first * cos - second * sin, (0, 0, 0), (T, HEADS, HALF), (1, 1, 1))
    return tl.insert_slice(x, second * cos + first * sin, (0, 0, HALF), (T, HEADS, HALF), (1, 1, 1))


@triton.jit
def tiles_of_tokens(q_ptr, k_ptr, cos_ptr, sin_ptr, length, tiles, batches, HEADS: tl.constexpr, HALF: tl.constexpr,
                    T: tl.constexpr):
    """mojo_opset's for the A2: tiles of T tokens, masked, all heads of q, then of k, in place; fp32 cos and sin."""
    for tile in range(tl.program_id(0), batches * tiles, tl.num_programs(0)):
        token = tile % tiles * T + tl.arange(0, T)
        inside = (token < length)[:, None, None]
        angle = token[:, None, None] * (2 * HALF) + tl.arange(0, HALF)[None, None, :]
        cos = tl.load(cos_ptr + angle, mask=inside, other=0.0)
        sin = tl.load(sin_ptr + angle, mask=inside, other=0.0)
        row = tile // tiles * length * (HEADS * 2 * HALF) + token[:, None, None] * (HEADS * 2 * HALF)
        at = row + tl.arange(0, HEADS)[None, :, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, None, :]
        q = tl.load(q_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(q_ptr + at, _rotated(q, cos, sin, T, HEADS, HALF).to(tl.bfloat16), mask=inside)
        k = tl.load(k_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(k_ptr + at, _rotated(k, cos, sin, T, HEADS, HALF).to(tl.bfloat16), mask=inside)


@triton.jit
def _normed_and_rotated(x, weight, cos, sin, HEADS: tl.constexpr, HALF: tl.constexpr):
    scale = 1 / tl.sqrt(tl.sum(x * x, axis=1) / (2 * HALF) + 1e-6)
    x = x * scale[:, None] * weight[None, :]
    turned = tl.zeros((HEADS, 2 * HALF), tl.float32)
    second = tl.extract_slice(x, (0, HALF), (HEADS, HALF), (1, 1))
    turned = tl.insert_slice(turned, -second, (0, 0), (HEADS, HALF), (1, 1))
    first = tl.extract_slice(x, (0, 0), (HEADS, HALF), (1, 1))
    turned = tl.insert_slice(turned, first, (0, HALF), (HEADS, HALF), (1, 1))
    return turned * sin[None, :] + x * cos[None, :]


@triton.jit
def _rows(in_ptr, out_ptr, weight_ptr, cos_ptr, sin_ptr, tokens, row, HEADS: tl.constexpr, HALF: tl.constexpr):
    weight = tl.load(weight_ptr + tl.arange(0, 2 * HALF)).to(tl.float32)
    head = tl.arange(0, HEADS)[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    for token in range(tl.program_id(0), tokens, tl.num_programs(0)):
        x = tl.load(in_ptr + token * row + head).to(tl.float32)
        angle = token * (2 * HALF) + tl.arange(0, 2 * HALF)
        cos = tl.load(cos_ptr + angle).to(tl.float32)
        sin = tl.load(sin_ptr + angle).to(tl.float32)
        y = _normed_and_rotated(x, weight, cos, sin, HEADS, HALF)
        tl.store(out_ptr + token * (HEADS * 2 * HALF) + head, y.to(tl.bfloat16))


@triton.jit
def token_by_token(qkv_ptr, q_ptr, k_ptr, v_ptr, weight_ptr, cos_ptr, sin_ptr, tokens, row, Q: tl.constexpr,
                   KV: tl.constexpr, HALF: tl.constexpr):
    """sgl-kernel-npu's split, norm and rotation: a loop over tokens for q, one for k, one that copies v."""
    _rows(qkv_ptr, q_ptr, weight_ptr, cos_ptr, sin_ptr, tokens, row, Q, HALF)
    _rows(qkv_ptr + Q * 2 * HALF, k_ptr, weight_ptr, cos_ptr, sin_ptr, tokens, row, KV, HALF)
    lane = tl.arange(0, KV * 2 * HALF)
    for token in range(tl.program_id(0), tokens, tl.num_programs(0)):
        value = tl.load(qkv_ptr + (Q + KV) * 2 * HALF + token * row + lane)
        tl.store(v_ptr + token * (KV * 2 * HALF) + lane, value)
