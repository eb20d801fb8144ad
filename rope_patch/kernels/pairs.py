"""GPT-J pairs on Ascend: the two lanes of each pair apart, in fp32, and together again.

Lanes of a pair lie side by side. What Triton has for that, ``split`` and ``join``, is refused by CANN 8.5's compiler,
or worse: it moves the reshape that they need into the load, and loses the load's strides. So 16-bit pairs are taken as
whole 32-bit words, without a shuffle; others (fp32, odd strides) by strided slices: a shuffle, but no reshape.
"""

import triton
import triton.language as tl

# Arguments stay grouped by what they are about, not one a line.
# fmt: off

HIGH_HALF = tl.constexpr(-65536)


@triton.jit
def words_apart(words, dtype: tl.constexpr):
    """``[...]`` pairs of 16-bit lanes, each one int32 (the first lane is its low half), as two fp32 tensors."""
    low = words << 16
    high = words & HIGH_HALF
    if dtype == tl.bfloat16:  # the upper half of an fp32
        first = low.to(tl.float32, bitcast=True)
        second = high.to(tl.float32, bitcast=True)
    else:
        # Narrowed only when it fits, and shifted only over zeros: the same whether a compiler's narrowing saturates,
        # and whether its shift rounds (CANN's is asked to).
        first = (low >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        second = (high >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return first, second


@triton.jit
def words_together(first, second):
    """The int32 words of two tensors of 16-bit lanes.

    By way of int16 and not of fp32, in which bf16 is the upper half: CANN 8.5's compiler takes a cast to bf16 and back
    for nothing, and leaves the rounding out.
    """
    low = first.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    high = second.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return low | high


@triton.jit
def slices_apart(pairs, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HALF: tl.constexpr):
    """Every other lane of ``[BLOCK_T, BLOCK_H, at least 2 * HALF]``, from the first and from the second, as fp32."""
    first = tl.extract_slice(pairs, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2)).to(tl.float32)
    second = tl.extract_slice(pairs, (0, 0, 1), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2)).to(tl.float32)
    return first, second


@triton.jit
def slices_together(pairs, first, second, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HALF: tl.constexpr):
    """``pairs`` with both lanes of its first ``HALF`` pairs replaced."""
    pairs = tl.insert_slice(pairs, first, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2))
    return tl.insert_slice(pairs, second, (0, 0, 1), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2))
