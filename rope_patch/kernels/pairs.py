"""GPT-J pairs on Ascend: take the two lanes of each pair apart, as fp32, and put them together again.

The lanes of a pair lie side by side. Triton's ``split`` and ``join`` cannot be used: CANN 8.5's compiler refuses them,
or moves the reshape that they need into the load and loses the load's strides. So pairs of 16-bit lanes are handled as
32-bit words, which needs no shuffle; other pairs (fp32, odd strides) by strided slices, a shuffle without a reshape.
"""

import triton
import triton.language as tl

# Arguments stay grouped by what they are about, not one a line.
# fmt: off

HIGH_HALF = tl.constexpr(-65536)


@triton.jit
def words_apart(words, dtype: tl.constexpr):
    """Two fp32 tensors from pairs of 16-bit lanes. Each pair is one int32, with the first lane in its low half."""
    low = words << 16
    high = words & HIGH_HALF
    if dtype == tl.bfloat16:  # a bf16 is the upper half of an fp32
        first = low.to(tl.float32, bitcast=True)
        second = high.to(tl.float32, bitcast=True)
    else:
        # Each value fits into int16, and the bits shifted out are zeros. So the result does not depend on whether a
        # compiler's narrowing saturates, or on whether its shift rounds, as CANN's does.
        first = (low >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        second = (high >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return first, second


@triton.jit
def words_together(first, second):
    """The int32 words of two tensors of 16-bit lanes.

    It goes through int16. Through fp32, whose upper half a bf16 is, would be wrong: CANN 8.5's compiler removes a cast
    to bf16 and back, and with it the rounding.
    """
    low = first.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    high = second.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return low | high


@triton.jit
def slices_apart(pairs, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HALF: tl.constexpr):
    """The even and the odd ones of the first ``2 * HALF`` lanes of ``[BLOCK_T, BLOCK_H, lanes]``, as fp32."""
    first = tl.extract_slice(pairs, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2)).to(tl.float32)
    second = tl.extract_slice(pairs, (0, 0, 1), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2)).to(tl.float32)
    return first, second


@triton.jit
def slices_together(pairs, first, second, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HALF: tl.constexpr):
    """``pairs`` with the lanes of its first ``HALF`` pairs replaced by ``first`` and ``second``."""
    pairs = tl.insert_slice(pairs, first, (0, 0, 0), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2))
    return tl.insert_slice(pairs, second, (0, 0, 1), (BLOCK_T, BLOCK_H, HALF), (1, 1, 2))
