"""The Triton kernel: rotate q and k by position, in one launch.

A tile is ``[tokens, heads, lanes]``. Its cos/sin rows are gathered once, by position, and serve every head of q and of
k. The arithmetic is fp32; each output element is rounded once, to the tensor's dtype. A program either owns a
contiguous chunk of tokens and walks it in tiles, each with all its heads, or it takes one block of heads of one tile
(``UNITS``).

With x1, x2 the two halves of a head's rotary part (NeoX) or its even and odd lanes (GPT-J)::

    y1 = x1 * cos - x2 * sin
    y2 = x2 * cos + x1 * sin

(RoFormer, Su et al. 2021, equation 34, in the real form that vLLM's ``ApplyRotaryEmb`` computes.)

What differs between back ends is in constexpr arguments, decided by ``plan.py``; the source is one:

* ``PAIRS``: where the two lanes of a pair are, and how they are taken apart. ``"halves"``: NeoX. GPT-J's lie side by
  side: ``"split"`` in registers (mainline Triton, and interpreters); on Ascend as ``"bf16 words"`` or ``"fp16 words"``,
  where each is an aligned int32 (pointers, strides and HEAD_SIZE then count words), else by ``"slices"``: ``pairs.py``.
* ``PADDED``: lane and head blocks are rounded up to powers of two and masked. Mainline Triton needs it, because its
  ``arange`` takes powers of two only. Triton-Ascend takes any length, and there masks cost pipelining.
* ``WIDE_HEADS``, ``WIDE_ROWS``: whole heads, and whole cos/sin rows, are moved at once and cut into halves in the
  unified buffer, where Triton-Ascend has slices and they are aligned: half as many DMA transfers, each twice as large.
* ``STRIDE_UNIT``: what all strides are multiples of; they come divided by it. CUDA's wide accesses need to know.
* ``VECTOR``: how many cosines a CUDA thread fetches at once: as many as the lanes it rotates by them.
* ``TRUNCATING_CAST``: Triton's CPU interpreter drops the low bits when it casts fp32 to bf16; hardware rounds to
  nearest even. There, and only there, the rounding is done on the bits first.
"""

import triton
import triton.language as tl

from rope_patch.kernels.heads import cos_sin_of, positions_of, rotate_heads

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, unit, token0, tokens_left,
                 cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                 Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr,
                 PAIRS: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr, BLOCK_T: tl.constexpr,
                 BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr, TAIL: tl.constexpr,
                 BIG_CACHE: tl.constexpr, WIDE_HEADS: tl.constexpr, WIDE_ROWS: tl.constexpr, PADDED: tl.constexpr,
                 VECTOR: tl.constexpr, TRUNCATING_CAST: tl.constexpr):
    """``tokens_left`` tokens from ``token0``, at most BLOCK_T: all heads of q and k, or if SPLIT the unit-th block."""
    position = positions_of(positions_ptr, token0, tokens_left, BLOCK_T, TAIL or PADDED)
    if SPLIT:
        Q_BLOCKS: tl.constexpr = (Q_HEADS + BLOCK_Q - 1) // BLOCK_Q
        if unit < Q_BLOCKS:
            rotate_heads(q_ptr, q_out_ptr, cache_ptr, position, None, None, unit * BLOCK_Q, token0, tokens_left,
                         q_token_stride, q_head_stride, cache_rows, cache_stride, Q_HEADS, BLOCK_Q, HEAD_SIZE, HALF,
                         PAIRS, HALF_LANES, REST_LANES, BLOCK_T, TAIL, BIG_CACHE, WIDE_HEADS, WIDE_ROWS, PADDED,
                         VECTOR, TRUNCATING_CAST)
        elif K_HEADS > 0:
            rotate_heads(k_ptr, k_out_ptr, cache_ptr, position, None, None, (unit - Q_BLOCKS) * BLOCK_K, token0,
                         tokens_left, k_token_stride, k_head_stride, cache_rows, cache_stride, K_HEADS, BLOCK_K,
                         HEAD_SIZE, HALF, PAIRS, HALF_LANES, REST_LANES, BLOCK_T, TAIL, BIG_CACHE, WIDE_HEADS,
                         WIDE_ROWS, PADDED, VECTOR, TRUNCATING_CAST)
    else:
        cos, sin = cos_sin_of(cache_ptr, position, cache_rows, cache_stride, HALF, HALF_LANES, BLOCK_T, 1,
                            BIG_CACHE, WIDE_ROWS, PADDED, VECTOR)
        for head0 in range(0, Q_HEADS, BLOCK_Q):
            rotate_heads(q_ptr, q_out_ptr, cache_ptr, position, cos, sin, head0, token0, tokens_left,
                         q_token_stride, q_head_stride, cache_rows, cache_stride, Q_HEADS, BLOCK_Q, HEAD_SIZE, HALF,
                         PAIRS, HALF_LANES, REST_LANES, BLOCK_T, TAIL, BIG_CACHE, WIDE_HEADS, WIDE_ROWS, PADDED,
                         VECTOR, TRUNCATING_CAST)
        if K_HEADS > 0:
            for head0 in range(0, K_HEADS, BLOCK_K):
                rotate_heads(k_ptr, k_out_ptr, cache_ptr, position, cos, sin, head0, token0, tokens_left,
                             k_token_stride, k_head_stride, cache_rows, cache_stride, K_HEADS, BLOCK_K, HEAD_SIZE,
                             HALF, PAIRS, HALF_LANES, REST_LANES, BLOCK_T, TAIL, BIG_CACHE, WIDE_HEADS, WIDE_ROWS,
                             PADDED, VECTOR, TRUNCATING_CAST)


@triton.jit(do_not_specialize=["num_tokens", "per_program", "cache_rows", "cache_stride", "q_token_stride",
                               "q_head_stride", "k_token_stride", "k_head_stride"])
def rotary_kernel(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, per_program,
                  cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                  Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr,
                  PAIRS: tl.constexpr, HALF_LANES: tl.constexpr, REST_LANES: tl.constexpr, BLOCK_T: tl.constexpr,
                  BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UNITS: tl.constexpr, BIG_CACHE: tl.constexpr,
                  STRIDE_UNIT: tl.constexpr, WIDE_HEADS: tl.constexpr, WIDE_ROWS: tl.constexpr, PADDED: tl.constexpr,
                  VECTOR: tl.constexpr, TRUNCATING_CAST: tl.constexpr):
    """Program p rotates tokens ``[p * per_program, (p + 1) * per_program)``: full tiles, then a tail.

    If UNITS > 0, what it has so many of are items instead: number ``tile * UNITS + u`` is a tile's u-th block of heads,
    those of q, then those of k. With PADDED it has one.
    An output pointer of None means in place. ``K_HEADS`` 0 means that there is no key.
    """
    cache_stride *= STRIDE_UNIT
    q_token_stride *= STRIDE_UNIT
    q_head_stride *= STRIDE_UNIT
    k_token_stride *= STRIDE_UNIT
    k_head_stride *= STRIDE_UNIT
    if UNITS > 0 and PADDED:
        token0 = tl.program_id(0) // UNITS * BLOCK_T
        unit = tl.program_id(0) % UNITS
        _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, unit, token0, num_tokens - token0,
                     cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                     Q_HEADS, K_HEADS, HEAD_SIZE, HALF, PAIRS, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_Q, BLOCK_K,
                     True, BLOCK_T > 1, BIG_CACHE, WIDE_HEADS, WIDE_ROWS, PADDED, VECTOR, TRUNCATING_CAST)
    elif UNITS > 0:  # of single tokens: no tail
        first = tl.program_id(0) * per_program
        for item in range(first, tl.minimum(first + per_program, num_tokens * UNITS)):
            _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, item % UNITS, item // UNITS, 1,
                         cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                         Q_HEADS, K_HEADS, HEAD_SIZE, HALF, PAIRS, HALF_LANES, REST_LANES, 1, BLOCK_Q, BLOCK_K,
                         True, False, BIG_CACHE, WIDE_HEADS, WIDE_ROWS, PADDED, VECTOR, TRUNCATING_CAST)
    else:
        begin = tl.program_id(0) * per_program
        end = tl.minimum(begin + per_program, num_tokens)
        full = begin + (end - begin) // BLOCK_T * BLOCK_T
        for token0 in range(begin, full, BLOCK_T):
            _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, 0, token0, BLOCK_T,
                         cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                         Q_HEADS, K_HEADS, HEAD_SIZE, HALF, PAIRS, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_Q,
                         BLOCK_K, False, False, BIG_CACHE, WIDE_HEADS, WIDE_ROWS, PADDED, VECTOR, TRUNCATING_CAST)
        if BLOCK_T > 1:  # noqa: SIM102  (decided when compiling; the inner one at run time)
            if full < end:
                _rotate_tile(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, 0, full, end - full,
                             cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                             Q_HEADS, K_HEADS, HEAD_SIZE, HALF, PAIRS, HALF_LANES, REST_LANES, BLOCK_T, BLOCK_Q,
                             BLOCK_K, False, True, BIG_CACHE, WIDE_HEADS, WIDE_ROWS, PADDED, VECTOR, TRUNCATING_CAST)
