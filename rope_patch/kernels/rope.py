"""The Triton kernel: rotate q and k by position, in one launch.

A persistent one-dimensional grid. Each program owns a contiguous chunk of tokens and walks it in tiles of
``[tokens, heads, lanes]``. For a tile the cos/sin rows are gathered once, by position, and serve every head of q and
of k. The arithmetic is fp32; each output element is rounded once, to the tensor's dtype.

With x1, x2 the two halves of a head's rotary part (NeoX) or its even and odd lanes (GPT-J)::

    y1 = x1 * cos - x2 * sin
    y2 = x2 * cos + x1 * sin

(RoFormer, Su et al. 2021, equation 34, in the real form that vLLM's ``ApplyRotaryEmb`` computes.)

What differs between back ends is in constexpr arguments, decided by ``plan.py``; the source is one:

* ``PADDED``: lane and head blocks are rounded up to powers of two and masked. Mainline Triton needs it, because its
  ``arange`` takes powers of two only. Triton-Ascend takes any length, and there masks cost pipelining.
* ``TRUNCATING_CAST``: Triton's CPU interpreter drops the low bits when it casts fp32 to bf16; hardware rounds to
  nearest even. There, and only there, the rounding is done on the bits first.
"""

import triton
import triton.language as tl

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
def _cos_sin(cache_ptr, positions_ptr, token0, tokens_left, cache_rows, cache_stride, HALF: tl.constexpr,
             HALF_LANES: tl.constexpr, BLOCK_T: tl.constexpr, TAIL: tl.constexpr, PADDED: tl.constexpr,
             WIDE_CACHE: tl.constexpr):
    """The fp32 cos and sin rows, ``[BLOCK_T, HALF_LANES]`` each, of the tile's tokens."""
    t = tl.arange(0, BLOCK_T)
    lane = tl.arange(0, HALF_LANES)
    if BLOCK_T == 1:  # one scalar: triton-ascend 3.2.0 cannot lower a gather by a vector of one
        position = tl.load(positions_ptr + token0)
    elif TAIL or PADDED:
        position = tl.load(positions_ptr + token0 + t, mask=t < tokens_left, other=0)
    else:
        position = tl.load(positions_ptr + token0 + t)
    # 32 bits: vectors of int64 are scalar code on Ascend. Whatever a position holds, the row read is in the cache.
    row = tl.minimum(tl.maximum(position.to(tl.int32), 0), cache_rows - 1)
    if WIDE_CACHE:
        row = row.to(tl.int64)
    if BLOCK_T == 1:
        address = cache_ptr + row * cache_stride + lane[None, :]
    else:
        address = cache_ptr + row[:, None] * cache_stride + lane[None, :]
    if PADDED:
        mask = (t < tokens_left)[:, None] & (lane < HALF)[None, :]
        cos = tl.load(address, mask=mask, other=0.0)
        sin = tl.load(address + HALF, mask=mask, other=0.0)
    else:
        cos = tl.load(address)
        sin = tl.load(address + HALF)
    return cos.to(tl.float32), sin.to(tl.float32)


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
def _rotate_heads(x_ptr, out_ptr, token0, tokens_left, token_stride, head_stride, cos, sin,
                  HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr, IS_NEOX: tl.constexpr,
                  HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
                  TAIL: tl.constexpr, PADDED: tl.constexpr, TRUNCATING_CAST: tl.constexpr):
    """Rotate all heads of q, or of k, for one tile of tokens, into ``out_ptr``, or in place if that is None."""
    MASKED: tl.constexpr = TAIL or PADDED
    IN_PLACE: tl.constexpr = out_ptr is None  # the same pointer, never a second argument for the same memory
    REST: tl.constexpr = HEAD_SIZE - 2 * HALF
    # Bases are 64-bit scalars: 65,536 tokens of a wide qkv row pass 2**31 elements.
    x_base = x_ptr + token0 * token_stride.to(tl.int64)
    if IN_PLACE:
        y_base = x_base
        y_token_stride = token_stride
        y_head_stride = head_stride
    else:
        y_base = out_ptr + token0 * tl.full((), HEADS * HEAD_SIZE, tl.int64)
        y_token_stride = HEADS * HEAD_SIZE
        y_head_stride = HEAD_SIZE
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    cos = cos[:, None, :]
    sin = sin[:, None, :]
    for head0 in range(0, HEADS, BLOCK_H):
        x = x_base + head0 * head_stride
        y = y_base + head0 * y_head_stride
        if IS_NEOX:
            mask = _mask(tokens_left, head0, HEADS, HALF, BLOCK_T, BLOCK_H, HALF_LANES, PADDED)
            x_at = x + _block(token_stride, head_stride, HALF_LANES, BLOCK_T, BLOCK_H)
            y_at = y + _block(y_token_stride, y_head_stride, HALF_LANES, BLOCK_T, BLOCK_H)
            x1 = _load(x_at, mask, MASKED).to(tl.float32)
            x2 = _load(x_at + HALF, mask, MASKED).to(tl.float32)
            _store(y_at, _narrow(x1 * cos - x2 * sin, dtype, TRUNCATING_CAST), mask, MASKED)
            _store(y_at + HALF, _narrow(x2 * cos + x1 * sin, dtype, TRUNCATING_CAST), mask, MASKED)
        else:
            # Pairs are loaded contiguously and split in registers: stride-2 accesses are scalar loops on Ascend.
            mask = _mask(tokens_left, head0, HEADS, 2 * HALF, BLOCK_T, BLOCK_H, 2 * HALF_LANES, PADDED)
            x_at = x + _block(token_stride, head_stride, 2 * HALF_LANES, BLOCK_T, BLOCK_H)
            y_at = y + _block(y_token_stride, y_head_stride, 2 * HALF_LANES, BLOCK_T, BLOCK_H)
            pairs = tl.reshape(_load(x_at, mask, MASKED).to(tl.float32), (BLOCK_T, BLOCK_H, HALF_LANES, 2))
            x1, x2 = tl.split(pairs)
            turned = tl.reshape(tl.join(x1 * cos - x2 * sin, x2 * cos + x1 * sin), (BLOCK_T, BLOCK_H, 2 * HALF_LANES))
            _store(y_at, _narrow(turned, dtype, TRUNCATING_CAST), mask, MASKED)
        if REST > 0 and not IN_PLACE:
            mask = _mask(tokens_left, head0, HEADS, REST, BLOCK_T, BLOCK_H, REST_LANES, PADDED)
            x_at = x + 2 * HALF + _block(token_stride, head_stride, REST_LANES, BLOCK_T, BLOCK_H)
            y_at = y + 2 * HALF + _block(y_token_stride, y_head_stride, REST_LANES, BLOCK_T, BLOCK_H)
            _store(y_at, _load(x_at, mask, MASKED), mask, MASKED)


@triton.jit
def _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, token0, tokens_left,
                 cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                 Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr,
                 IS_NEOX: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr, BLOCK_T: tl.constexpr,
                 BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDE_CACHE: tl.constexpr, TAIL: tl.constexpr,
                 PADDED: tl.constexpr, TRUNCATING_CAST: tl.constexpr):
    """All heads of q and k for ``tokens_left`` tokens from ``token0``, at most BLOCK_T."""
    cos, sin = _cos_sin(cache_ptr, positions_ptr, token0, tokens_left, cache_rows, cache_stride,
                        HALF, HALF_LANES, BLOCK_T, TAIL, PADDED, WIDE_CACHE)
    _rotate_heads(q_ptr, q_out_ptr, token0, tokens_left, q_token_stride, q_head_stride, cos, sin,
                  Q_HEADS, HEAD_SIZE, HALF, IS_NEOX, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_Q,
                  TAIL, PADDED, TRUNCATING_CAST)
    if K_HEADS > 0:
        _rotate_heads(k_ptr, k_out_ptr, token0, tokens_left, k_token_stride, k_head_stride, cos, sin,
                      K_HEADS, HEAD_SIZE, HALF, IS_NEOX, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_K,
                      TAIL, PADDED, TRUNCATING_CAST)


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_program", "cache_rows", "cache_stride", "q_token_stride",
                               "q_head_stride", "k_token_stride", "k_head_stride"])
def rotary_kernel(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, tokens_per_program,
                  cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                  Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr,
                  IS_NEOX: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr, BLOCK_T: tl.constexpr,
                  BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDE_CACHE: tl.constexpr, PADDED: tl.constexpr,
                  TRUNCATING_CAST: tl.constexpr):
    """Program p rotates tokens ``[p * tokens_per_program, (p + 1) * tokens_per_program)``: full tiles, then a tail.

    An output pointer of None means in place. ``K_HEADS`` 0 means that there is no key.
    """
    begin = tl.program_id(0) * tokens_per_program
    end = tl.minimum(begin + tokens_per_program, num_tokens)
    full = begin + (end - begin) // BLOCK_T * BLOCK_T
    for token0 in range(begin, full, BLOCK_T):
        _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, token0, BLOCK_T,
                     cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                     Q_HEADS, K_HEADS, HEAD_SIZE, HALF, IS_NEOX, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_Q, BLOCK_K,
                     WIDE_CACHE, False, PADDED, TRUNCATING_CAST)
    if BLOCK_T > 1:  # noqa: SIM102  (decided when compiling; the inner one at run time)
        if full < end:
            _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, full, end - full,
                         cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                         Q_HEADS, K_HEADS, HEAD_SIZE, HALF, IS_NEOX, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_Q, BLOCK_K,
                         WIDE_CACHE, True, PADDED, TRUNCATING_CAST)
