"""The kernel of norm and rotation for mainline Triton: CUDA, where it is measured as a proxy, and interpreters.

It has the arguments of Ascend's kernels (``normed.py``), but its own program: blocks of tokens, heads and lanes are
powers of two, and masked. Program ``tile * UNITS + u`` takes the u-th block of heads of a tile of tokens: q's blocks
first, then k's, each with as many heads of the gate, or of v, as it has itself.

Constexpr arguments, decided by ``normed_padded_plan.py``:

* ``HALF_LANES``, ``REST_LANES``, ``HEAD_LANES``: lanes of the parts of a head, and of a whole one, rounded up.
* ``STRIDE_UNIT``: as in ``padded.py``.
"""

import triton
import triton.language as tl

from rope_patch.kernels.angles import shares
from rope_patch.kernels.arithmetic import row_offset, turned
from rope_patch.kernels.normed import NORMED_NUMBERS
from rope_patch.kernels.padded import _narrow

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _block(token_stride, HEAD_STRIDE: tl.constexpr, LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    t = tl.arange(0, BLOCK_T)[:, None, None] * token_stride
    return t + tl.arange(0, BLOCK_H)[None, :, None] * HEAD_STRIDE + tl.arange(0, LANES)[None, None, :]


@triton.jit
def _mask(tokens_left, heads_left, COUNT: tl.constexpr, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
          BLOCK_H: tl.constexpr):
    """Which elements of a ``[BLOCK_T, BLOCK_H, LANES]`` block exist."""
    tokens = (tl.arange(0, BLOCK_T) < tokens_left)[:, None, None]
    return tokens & (tl.arange(0, BLOCK_H) < heads_left)[None, :, None] & (tl.arange(0, LANES) < COUNT)[None, None, :]


@triton.jit
def _parameter(ptr, COUNT: tl.constexpr, LANES: tl.constexpr):
    lane = tl.arange(0, LANES)
    return tl.load(ptr + lane, mask=lane < COUNT, other=0.0).to(tl.float32)[None, None, :]


@triton.jit
def _axis_rows(positions_ptr, token0, tokens_left, cache_rows, cache_stride, BLOCK_T: tl.constexpr):
    """Where the row of each token begins, ``[BLOCK_T, 1]``."""
    t = tl.arange(0, BLOCK_T)
    if positions_ptr is None:
        row = (token0 + tl.minimum(t, tokens_left - 1)).to(tl.int64) * cache_stride
    else:
        position = tl.load(positions_ptr + token0 + t, mask=t < tokens_left, other=0)
        row = row_offset(position, cache_rows, cache_stride)
    return row[:, None]


@triton.jit
def _cos_sin(cos_ptr, sin_ptr, positions_ptr, token0, tokens_left, cache_rows, cache_stride, axis_stride,
             HALF: tl.constexpr, HALF_LANES: tl.constexpr, BLOCK_T: tl.constexpr, ORDER: tl.constexpr,
             H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr):
    """The fp32 cos and sin of a tile, ``[BLOCK_T, 1, HALF_LANES]`` each: each lane from the row of its axis."""
    lane = tl.arange(0, HALF_LANES)[None, :]
    row = _axis_rows(positions_ptr, token0, tokens_left, cache_rows, cache_stride, BLOCK_T)
    if ORDER != "":
        if positions_ptr is None:  # rows that were gathered for an axis follow those of the one before
            row_h = row + axis_stride
            row_w = row + 2 * axis_stride
        else:
            row_h = _axis_rows(positions_ptr + axis_stride, token0, tokens_left, cache_rows, cache_stride, BLOCK_T)
            row_w = _axis_rows(positions_ptr + 2 * axis_stride, token0, tokens_left, cache_rows, cache_stride, BLOCK_T)
        h, w = shares(lane, HALF, ORDER, H_PAIRS, W_PAIRS)
        row = tl.where(h == 1, row_h, tl.where(w == 1, row_w, row))
    mask = lane < HALF
    cos = tl.load(cos_ptr + row + lane, mask=mask, other=0.0).to(tl.float32)
    if sin_ptr is None:
        sin = tl.load(cos_ptr + row + lane + HALF, mask=mask, other=0.0).to(tl.float32)
    else:
        sin = tl.load(sin_ptr + row + lane, mask=mask, other=0.0).to(tl.float32)
    return cos[:, None, :], sin[:, None, :]


@triton.jit
def _norm_block(x, y, token_stride, w_ptr, b_ptr, cos, sin, tokens_left, heads_left, HEADS: tl.constexpr,
                HEAD_SIZE: tl.constexpr, HEAD_STRIDE: tl.constexpr, HALF: tl.constexpr, EPS: tl.constexpr,
                HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    REST: tl.constexpr = HEAD_SIZE - 2 * HALF
    dtype: tl.constexpr = x.dtype.element_ty
    mask = _mask(tokens_left, heads_left, HALF, HALF_LANES, BLOCK_T, BLOCK_H)
    at = _block(token_stride, HEAD_STRIDE, HALF_LANES, BLOCK_T, BLOCK_H)
    to = _block(HEADS * HEAD_SIZE, HEAD_SIZE, HALF_LANES, BLOCK_T, BLOCK_H)
    x1 = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(x + HALF + at, mask=mask, other=0.0).to(tl.float32)
    total = tl.sum(x1 * x1 + x2 * x2, axis=2)
    if REST > 0:
        rest_mask = _mask(tokens_left, heads_left, REST, REST_LANES, BLOCK_T, BLOCK_H)
        rest_at = _block(token_stride, HEAD_STRIDE, REST_LANES, BLOCK_T, BLOCK_H)
        x3 = tl.load(x + 2 * HALF + rest_at, mask=rest_mask, other=0.0).to(tl.float32)
        total += tl.sum(x3 * x3, axis=2)
    inverse = (1.0 / tl.sqrt(total / HEAD_SIZE + EPS))[:, :, None]
    n1 = x1 * inverse * _parameter(w_ptr, HALF, HALF_LANES)
    n2 = x2 * inverse * _parameter(w_ptr + HALF, HALF, HALF_LANES)
    if b_ptr is not None:
        n1 += _parameter(b_ptr, HALF, HALF_LANES)
        n2 += _parameter(b_ptr + HALF, HALF, HALF_LANES)
    y1, y2 = turned(n1, n2, cos, sin, PRODUCTS_FIRST=False)
    tl.store(y + to, _narrow(y1, dtype), mask=mask)
    tl.store(y + HALF + to, _narrow(y2, dtype), mask=mask)
    if REST > 0:
        n3 = x3 * inverse * _parameter(w_ptr + 2 * HALF, REST, REST_LANES)
        if b_ptr is not None:
            n3 += _parameter(b_ptr + 2 * HALF, REST, REST_LANES)
        rest_to = _block(HEADS * HEAD_SIZE, HEAD_SIZE, REST_LANES, BLOCK_T, BLOCK_H)
        tl.store(y + 2 * HALF + rest_to, _narrow(n3, dtype), mask=rest_mask)


@triton.jit
def _move_block(x, y, token_stride, tokens_left, heads_left, HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                HEAD_STRIDE: tl.constexpr, HEAD_LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    mask = _mask(tokens_left, heads_left, HEAD_SIZE, HEAD_LANES, BLOCK_T, BLOCK_H)
    moved = tl.load(x + _block(token_stride, HEAD_STRIDE, HEAD_LANES, BLOCK_T, BLOCK_H), mask=mask)
    tl.store(y + _block(HEADS * HEAD_SIZE, HEAD_SIZE, HEAD_LANES, BLOCK_T, BLOCK_H), moved, mask=mask)


@triton.jit(do_not_specialize=NORMED_NUMBERS)
def normed_kernel_padded(qkv_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gate_out_ptr, q_weight_ptr, k_weight_ptr, q_bias_ptr,
                         k_bias_ptr, cos_ptr, sin_ptr, positions_ptr, num_tokens, per_program, cache_rows, cache_stride,
                         qkv_stride, axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                         HALF: tl.constexpr, EPS: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr,
                         HEAD_LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
                         STRIDE_UNIT: tl.constexpr, ORDER: tl.constexpr = "", H_PAIRS: tl.constexpr = 0,
                         W_PAIRS: tl.constexpr = 0):
    """``per_program`` is 1."""
    GATED: tl.constexpr = gate_out_ptr is not None
    Q_STRIDE: tl.constexpr = 2 * HEAD_SIZE if GATED else HEAD_SIZE
    Q_UNITS: tl.constexpr = (Q_HEADS + BLOCK_Q - 1) // BLOCK_Q
    UNITS: tl.constexpr = Q_UNITS + (K_HEADS + BLOCK_K - 1) // BLOCK_K
    cache_stride *= STRIDE_UNIT
    qkv_stride *= STRIDE_UNIT
    token0 = tl.program_id(0) // UNITS * BLOCK_T
    unit = tl.program_id(0) % UNITS
    tokens_left = num_tokens - token0
    cos, sin = _cos_sin(cos_ptr, sin_ptr, positions_ptr, token0, tokens_left, cache_rows, cache_stride, axis_stride,
                        HALF, HALF_LANES, BLOCK_T, ORDER, H_PAIRS, W_PAIRS)
    # 64-bit bases: 65,536 tokens of a wide row pass 2**31 elements.
    row = qkv_ptr + token0 * qkv_stride.to(tl.int64)
    if unit < Q_UNITS:
        head = unit * BLOCK_Q
        x = row + head * Q_STRIDE
        to = token0 * tl.full((), Q_HEADS * HEAD_SIZE, tl.int64) + head * HEAD_SIZE
        _norm_block(x, q_out_ptr + to, qkv_stride, q_weight_ptr, q_bias_ptr, cos, sin, tokens_left, Q_HEADS - head,
                    Q_HEADS, HEAD_SIZE, Q_STRIDE, HALF, EPS, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_Q)
        if GATED:
            _move_block(x + HEAD_SIZE, gate_out_ptr + to, qkv_stride, tokens_left, Q_HEADS - head, Q_HEADS, HEAD_SIZE,
                        Q_STRIDE, HEAD_LANES, BLOCK_T, BLOCK_Q)
    else:
        head = (unit - Q_UNITS) * BLOCK_K
        x = row + Q_HEADS * Q_STRIDE + head * HEAD_SIZE
        to = token0 * tl.full((), K_HEADS * HEAD_SIZE, tl.int64) + head * HEAD_SIZE
        _norm_block(x, k_out_ptr + to, qkv_stride, k_weight_ptr, k_bias_ptr, cos, sin, tokens_left, K_HEADS - head,
                    K_HEADS, HEAD_SIZE, HEAD_SIZE, HALF, EPS, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_K)
        _move_block(x + K_HEADS * HEAD_SIZE, v_out_ptr + to, qkv_stride, tokens_left, K_HEADS - head, K_HEADS,
                    HEAD_SIZE, HEAD_SIZE, HEAD_LANES, BLOCK_T, BLOCK_K)
# fmt: on
