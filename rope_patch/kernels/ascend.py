"""What the plans of Ascend's kernels have in common: the unified buffer, and a formula for what a launch costs.

Nothing was tuned on an NPU. What a tile needs is what Huawei's compilers say of it. Costs are what the clock of
``scripts/model_ascend`` says of programs, roughly, and only for choosing between tiles. The clock's costs and their
sources are in its ``costs.py``; the numbers here and in ``blocks.py`` were fitted to its times of some two
thousand plans. ``tests/figures/test_clock.py`` says how far they are from it now.
"""

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass

from rope_patch.kernels.plan import Device, Plan, ceil_div
from rope_patch.kernels.shape import Shape

# The last axis of a tile in the unified buffer is padded to whole blocks, and slices of it must begin at one.
BLOCK_BYTES = 32
# What there is once in a kernel.
KERNEL_BYTES = 512

LINE = 512  # bytes: transfers are cut at these
HBM = 890  # bytes a cycle, all cores together
PROGRAM = 37  # to start one program more: the clock's ``start_us_per_core``
FIRST = 800  # until the first tile's positions, cosines and heads are there, and its last results away
SHARES = 700  # more for three positions a token: working out shares, once


@dataclass(frozen=True)
class AscendPlan(Plan):
    """Exact sizes; a tile must fit the unified buffer."""

    @abstractmethod
    def need(self, shape: Shape) -> int:
        """Bytes of the unified buffer, if nothing in there shares space."""

    @abstractmethod
    def work(self, shape: Shape, device: Device) -> tuple[float, float]:
        """Cycles for a tile, or on average for an item, and the bytes that memory moves for it each way."""

    def fits(self, shape: Shape, device: Device) -> bool:
        return self.need(shape) <= device.tile_bytes

    def bytes_of(self, shape: Shape, device: Device) -> int:
        """What the compilers make of ``need``, at most."""
        return min(self.need(shape), device.tile_bytes)

    def cycles(self, shape: Shape, device: Device, num_tokens: int) -> float:
        """Of the whole launch, from the start of its first program on."""
        programs, each = self.grid(num_tokens, device)
        items = ceil_div(each, self.block_tokens)
        work, traffic = _work(self, shape, device)
        first = FIRST + (SHARES if shape.rotation.axes else 0)
        return PROGRAM * programs + math.hypot(first + items * work, 2 * traffic * items * programs / HBM)


@functools.lru_cache(maxsize=1 << 12)
def _work(plan: AscendPlan, shape: Shape, device: Device) -> tuple[float, float]:
    return plan.work(shape, device)


def padded(lanes: int, itemsize: int) -> int:
    """Bytes of so many lanes in the unified buffer."""
    return ceil_div(lanes * itemsize, BLOCK_BYTES) * BLOCK_BYTES


@functools.lru_cache(maxsize=1 << 14)
def memory_traffic(burst: int, size: int) -> float:
    """Bytes that memory moves for a burst, over the places in a line where heads of ``size`` bytes begin."""
    starts = [n * size % LINE for n in range(16)]
    return sum(_asked(start, burst) for start in starts) / len(starts)


def _asked(start: int, length: int) -> int:
    end = start + length
    if length > LINE:
        return (ceil_div(end, LINE) - start // LINE) * LINE
    pieces = [min(end, LINE) - start, max(0, end - LINE)]
    return sum(next(part for part in (128, 256, 512) if piece <= part) for piece in pieces if piece)
