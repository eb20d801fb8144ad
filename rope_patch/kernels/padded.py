"""The kernel for mainline Triton: for CUDA, where it is measured as a proxy, and for interpreters.

It has the arguments and the arithmetic of Ascend's kernels (``tiles.py``, ``arithmetic.py``), but its own program:
mainline's ``arange`` takes powers of two only, so blocks of tokens, heads and lanes are rounded up and masked, and it
has no unified buffer to cut tiles in. Program ``tile * UNITS + u`` takes the u-th block of heads of a tile of tokens:
q's blocks first, then k's.

Constexpr arguments, decided by ``padded_plan.py``:

* ``STRIDE_UNIT``: all strides are multiples of it and are passed divided by it, so that CUDA can use wide accesses.
* ``VECTOR``: how many cosines a CUDA thread fetches at once: as many as the lanes that it rotates, of one axis.
* ``ORDER``, ``H_PAIRS``, ``W_PAIRS``: as in ``tiles.py``, but each lane's address is selected, not what is loaded.
"""

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from rope_patch.kernels.angles import shares
from rope_patch.kernels.arithmetic import NUMBERS, block_offsets, row_offset, turned

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _narrow(x, dtype: tl.constexpr):
    """Cast fp32 to dtype, rounding to nearest even."""
    if TRUNCATING_CAST and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        # Adding just under half of the last kept place, plus its parity, makes truncation round to nearest even.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
        x = tl.where(x == x, rounded, x)  # adding to a NaN's bits could carry into its sign
    return x.to(dtype)


# Triton's CPU interpreter drops the low bits when it casts fp32 to bf16, where hardware rounds to nearest even.
TRUNCATING_CAST = tl.constexpr(isinstance(_narrow, InterpretedFunction))


@triton.jit
def _mask(tokens_left, head0, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
          LANES: tl.constexpr):
    """Which elements of a ``[BLOCK_T, BLOCK_H, LANES]`` block exist."""
    tokens = (tl.arange(0, BLOCK_T) < tokens_left)[:, None, None]
    heads = (head0 + tl.arange(0, BLOCK_H) < HEADS)[None, :, None]
    return tokens & heads & (tl.arange(0, LANES) < WIDTH)[None, None, :]


@triton.jit
def _positions(positions_ptr, token0, tokens_left, BLOCK_T: tl.constexpr):
    if BLOCK_T == 1:
        position = tl.load(positions_ptr + token0)  # a scalar: a vector of one element costs up to 6% of a small launch
    else:
        t = tl.arange(0, BLOCK_T)
        position = tl.load(positions_ptr + token0 + t, mask=t < tokens_left, other=0)
    return position


@triton.jit
def _cos_sin(cache_ptr, position, position_h, position_w, cache_rows, cache_stride, HALF: tl.constexpr,
             HALF_LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, VECTOR: tl.constexpr,
             ORDER: tl.constexpr, H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr):
    """The fp32 cos and sin of the tile's tokens, ``[BLOCK_T, BLOCK_H, HALF_LANES]`` each.

    Each thread fetches the lanes that it needs itself, VECTOR at a time, so that threads need not exchange them.
    """
    row = row_offset(position, cache_rows, cache_stride)
    if BLOCK_T > 1:
        row = row[:, None]
    lane = tl.arange(0, HALF_LANES)[None, :]
    if ORDER != "":
        row_h = row_offset(position_h, cache_rows, cache_stride)
        row_w = row_offset(position_w, cache_rows, cache_stride)
        if BLOCK_T > 1:
            row_h = row_h[:, None]
            row_w = row_w[:, None]
        h, w = shares(lane, HALF, ORDER, H_PAIRS, W_PAIRS)
        row = tl.where(h == 1, row_h, tl.where(w == 1, row_w, row))
    address = tl.max_contiguous(cache_ptr + row + lane, (1, VECTOR))
    address = address[:, None, :] + tl.zeros((1, BLOCK_H, 1), tl.int32)
    mask = (lane < HALF)[:, None, :]
    cos = tl.load(address, mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(address + HALF, mask=mask, other=0.0).to(tl.float32)
    return cos, sin


@triton.jit
def _turn_block(x_ptr, out_ptr, cache_ptr, position, position_h, position_w, head0, token0, tokens_left, token_stride,
            head_stride, cache_rows, cache_stride, HEADS: tl.constexpr, BLOCK_H: tl.constexpr, HEAD_SIZE: tl.constexpr,
            HALF: tl.constexpr, IS_NEOX: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr,
            BLOCK_T: tl.constexpr, VECTOR: tl.constexpr, ORDER: tl.constexpr,
            H_PAIRS: tl.constexpr, W_PAIRS: tl.constexpr):
    """``BLOCK_H`` heads of q, or of k, for one tile of tokens, into ``out_ptr``, or in place if that is None."""
    IN_PLACE: tl.constexpr = out_ptr is None  # the same pointer, never a second argument for the same memory
    REST: tl.constexpr = 0 if IN_PLACE else HEAD_SIZE - 2 * HALF
    dtype: tl.constexpr = x_ptr.dtype.element_ty
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
    WIDTH: tl.constexpr = HALF if IS_NEOX else 2 * HALF  # GPT-J's pairs are loaded side by side
    LANES: tl.constexpr = HALF_LANES if IS_NEOX else 2 * HALF_LANES
    mask = _mask(tokens_left, head0, HEADS, WIDTH, BLOCK_T, BLOCK_H, LANES)
    x_at = x + block_offsets(token_stride, head_stride, LANES, BLOCK_T, BLOCK_H)
    y_at = y + block_offsets(y_token_stride, y_head_stride, LANES, BLOCK_T, BLOCK_H)
    moved = tl.load(x_at, mask=mask, other=0.0)
    if IS_NEOX:
        second = tl.load(x_at + HALF, mask=mask, other=0.0)
    if REST > 0:
        rest_mask = _mask(tokens_left, head0, HEADS, REST, BLOCK_T, BLOCK_H, REST_LANES)
        rest_at = 2 * HALF + block_offsets(token_stride, head_stride, REST_LANES, BLOCK_T, BLOCK_H)
        rest = tl.load(x + rest_at, mask=rest_mask, other=0.0)
        rest_to = 2 * HALF + block_offsets(y_token_stride, y_head_stride, REST_LANES, BLOCK_T, BLOCK_H)
        tl.store(y + rest_to, rest, mask=rest_mask)
    # Loaded after the heads were requested, so that both loads are waited for at the same time.
    cos, sin = _cos_sin(cache_ptr, position, position_h, position_w, cache_rows, cache_stride, HALF, HALF_LANES,
                        BLOCK_T, BLOCK_H, VECTOR, ORDER, H_PAIRS, W_PAIRS)
    if IS_NEOX:
        y1, y2 = turned(moved.to(tl.float32), second.to(tl.float32), cos, sin, PRODUCTS_FIRST=False)
        tl.store(y_at, _narrow(y1, dtype), mask=mask)
        tl.store(y_at + HALF, _narrow(y2, dtype), mask=mask)
    else:
        x1, x2 = tl.split(tl.reshape(moved.to(tl.float32), (BLOCK_T, BLOCK_H, HALF_LANES, 2)))
        y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=False)
        both = tl.reshape(tl.join(y1, y2), (BLOCK_T, BLOCK_H, 2 * HALF_LANES))
        tl.store(y_at, _narrow(both, dtype), mask=mask)


@triton.jit(do_not_specialize=NUMBERS)
def rotary_kernel_padded(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, per_program,
                  cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                  axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                  HALF: tl.constexpr, IS_NEOX: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr,
                  BLOCK_T: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, STRIDE_UNIT: tl.constexpr,
                  VECTOR: tl.constexpr, ORDER: tl.constexpr = "", H_PAIRS: tl.constexpr = 0,
                  W_PAIRS: tl.constexpr = 0):
    """An output pointer of None means in place, ``K_HEADS`` 0 that there is no key; ``per_program`` is 1."""
    cache_stride *= STRIDE_UNIT
    q_token_stride *= STRIDE_UNIT
    q_head_stride *= STRIDE_UNIT
    k_token_stride *= STRIDE_UNIT
    k_head_stride *= STRIDE_UNIT
    Q_UNITS: tl.constexpr = (Q_HEADS + BLOCK_Q - 1) // BLOCK_Q
    UNITS: tl.constexpr = Q_UNITS + (K_HEADS + BLOCK_K - 1) // BLOCK_K
    token0 = tl.program_id(0) // UNITS * BLOCK_T
    unit = tl.program_id(0) % UNITS
    tokens_left = num_tokens - token0
    # Before the branch: a branch that loads them by itself does so later, up to 5% of a small launch.
    position = _positions(positions_ptr, token0, tokens_left, BLOCK_T)
    if ORDER == "":
        position_h = None
        position_w = None
    else:
        position_h = _positions(positions_ptr + axis_stride, token0, tokens_left, BLOCK_T)
        position_w = _positions(positions_ptr + 2 * axis_stride, token0, tokens_left, BLOCK_T)
    if unit < Q_UNITS:
        _turn_block(q_ptr, q_out_ptr, cache_ptr, position, position_h, position_w, unit * BLOCK_Q, token0, tokens_left,
                q_token_stride, q_head_stride, cache_rows, cache_stride, Q_HEADS, BLOCK_Q, HEAD_SIZE, HALF, IS_NEOX,
                HALF_LANES, REST_LANES, BLOCK_T, VECTOR, ORDER, H_PAIRS, W_PAIRS)
    elif K_HEADS > 0:
        _turn_block(k_ptr, k_out_ptr, cache_ptr, position, position_h, position_w, (unit - Q_UNITS) * BLOCK_K, token0,
                tokens_left, k_token_stride, k_head_stride, cache_rows, cache_stride, K_HEADS, BLOCK_K, HEAD_SIZE, HALF,
                IS_NEOX, HALF_LANES, REST_LANES, BLOCK_T, VECTOR, ORDER, H_PAIRS, W_PAIRS)
