"""Ascend's Triton kernels: rotate q and k by position, in one launch.

A tile is ``[tokens, heads, lanes]``. Its cos/sin rows are gathered once, by position, and serve every head of q and of
k. The arithmetic is fp32 (``arithmetic.py``); each output element is rounded once, to the tensor's dtype. There are two
kernels: ``rotary_kernel``, whose programs walk contiguous chunks of tokens in tiles, and, for fewer tokens than would
keep the cores at work, ``rotary_kernel_by_heads``, whose programs take blocks of heads of single tokens. What mainline
Triton runs (CUDA, interpreters) is ``padded.py``, a program of its own.

Constexpr arguments, decided by ``plan_ascend.py``:

* ``PAIRS``: where the two lanes of a pair are, and how they are taken apart. ``"halves"``: NeoX. GPT-J's lie side by
  side: as ``"bf16 words"`` or ``"fp16 words"`` each pair is an aligned int32 (pointers, strides and HEAD_SIZE then
  count words), else by ``"slices"``: ``pairs.py``.
* ``WHOLE``: whole heads are moved at once and cut in the unified buffer; else each part of a head by itself, which
  needs no copy in there, and lets parts move while others are at work.
* ``WIDE_ROWS``: whole cos/sin rows are moved at once and cut, where their halves are whole blocks.
* ``ORDER``, ``H_PAIRS``, ``W_PAIRS``: which of a token's three positions each pair of lanes turns by (``axes.py``); the
  positions of an axis then begin ``axis_stride`` after those of the one before. By default a token has one position,
  and ``axis_stride`` is None.
* ``BY_HEAD``: cos and sin are copied for each head of a block (``for_heads``); q's and k's are then of equal size.

An output pointer of None means in place, ``K_HEADS`` 0 that there is no key. Arguments that a launch gives at run time
come before all others: ``runner.py`` looks for them side by side.
"""

import triton
import triton.language as tl

from rope_patch.kernels.axes import angles_of
from rope_patch.kernels.heads import for_heads, rotate_block, rotate_heads

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit(do_not_specialize=["num_tokens", "per_program", "cache_rows", "cache_stride", "q_token_stride",
                               "q_head_stride", "k_token_stride", "k_head_stride", "axis_stride"])
def rotary_kernel(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, per_program,
                  cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                  axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                  HALF: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr, WIDE_ROWS: tl.constexpr,
                  OVERLAP: tl.constexpr, BY_HEAD: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_Q: tl.constexpr,
                  BLOCK_K: tl.constexpr, ORDER: tl.constexpr = "", H_PAIRS: tl.constexpr = 0,
                  W_PAIRS: tl.constexpr = 0):
    """Program p rotates tokens ``[p * per_program, (p + 1) * per_program)``, in tiles of ``BLOCK_T``.

    What is left for the last tile is masked; but with ``OVERLAP`` (of fresh outputs, at least ``BLOCK_T`` tokens), that
    tile begins early enough to be full, and makes a few results once more: a masked load costs filling, and waiting.
    """
    FRESH: tl.constexpr = (q_out_ptr is not None) and (k_out_ptr is not None or K_HEADS == 0)
    EARLY: tl.constexpr = OVERLAP and FRESH
    begin = tl.program_id(0) * per_program
    end = tl.minimum(begin + per_program, num_tokens)
    full = end if EARLY else begin + (end - begin) // BLOCK_T * BLOCK_T
    for tile0 in range(begin, full, BLOCK_T):
        token0 = tl.minimum(tile0, num_tokens - BLOCK_T) if EARLY else tile0
        cos, sin = angles_of(positions_ptr, axis_stride, cache_ptr, token0, None, cache_rows, cache_stride, HALF,
                             BLOCK_T, WIDE_ROWS, ORDER, H_PAIRS, W_PAIRS)
        if BY_HEAD:
            cos = for_heads(cos, BLOCK_T, BLOCK_Q, HALF)
            sin = for_heads(sin, BLOCK_T, BLOCK_Q, HALF)
        rotate_heads(q_ptr, q_out_ptr, token0, None, q_token_stride, q_head_stride, cos, sin,
                     Q_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_Q)
        if K_HEADS > 0:
            rotate_heads(k_ptr, k_out_ptr, token0, None, k_token_stride, k_head_stride, cos, sin,
                         K_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_K)
    if BLOCK_T > 1 and not EARLY:  # noqa: SIM102  (decided when compiling; the inner one at run time)
        if full < end:
            cos, sin = angles_of(positions_ptr, axis_stride, cache_ptr, full, end - full, cache_rows, cache_stride,
                                 HALF, BLOCK_T, WIDE_ROWS, ORDER, H_PAIRS, W_PAIRS)
            if BY_HEAD:
                cos = for_heads(cos, BLOCK_T, BLOCK_Q, HALF)
                sin = for_heads(sin, BLOCK_T, BLOCK_Q, HALF)
            rotate_heads(q_ptr, q_out_ptr, full, end - full, q_token_stride, q_head_stride, cos, sin,
                         Q_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_Q)
            if K_HEADS > 0:
                rotate_heads(k_ptr, k_out_ptr, full, end - full, k_token_stride, k_head_stride, cos, sin,
                             K_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_K)


@triton.jit(do_not_specialize=["num_tokens", "per_program", "cache_rows", "cache_stride", "q_token_stride",
                               "q_head_stride", "k_token_stride", "k_head_stride", "axis_stride"])
def rotary_kernel_by_heads(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, per_program,
                           cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                           axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                           HALF: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr, WIDE_ROWS: tl.constexpr,
                           BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ORDER: tl.constexpr = "",
                           H_PAIRS: tl.constexpr = 0, W_PAIRS: tl.constexpr = 0):
    """Program p takes items ``[p * per_program, (p + 1) * per_program)``.

    Item ``token * UNITS + u`` is the token's u-th block of heads: those of q, then those of k.
    """
    Q_UNITS: tl.constexpr = Q_HEADS // BLOCK_Q
    UNITS: tl.constexpr = Q_UNITS + K_HEADS // BLOCK_K
    first = tl.program_id(0) * per_program
    for item in range(first, tl.minimum(first + per_program, num_tokens * UNITS)):
        token = item // UNITS
        unit = item % UNITS
        cos, sin = angles_of(positions_ptr, axis_stride, cache_ptr, token, None, cache_rows, cache_stride, HALF, 1,
                             WIDE_ROWS, ORDER, H_PAIRS, W_PAIRS)
        if unit < Q_UNITS:
            rotate_block(q_ptr, q_out_ptr, token, unit * BLOCK_Q, None, q_token_stride, q_head_stride, cos, sin,
                         Q_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_Q)
        elif K_HEADS > 0:
            rotate_block(k_ptr, k_out_ptr, token, (unit - Q_UNITS) * BLOCK_K, None, k_token_stride, k_head_stride,
                         cos, sin, K_HEADS, HEAD_SIZE, PAIRS, WHOLE, BLOCK_K)
