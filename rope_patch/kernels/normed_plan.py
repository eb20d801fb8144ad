"""What the plans of norm and rotation on Ascend have in common: the unified buffer, and a formula for costs."""

import math
from dataclasses import dataclass

from rope_patch.kernels.ascend import FIRST, HBM, KERNEL_BYTES, PROGRAM, memory_traffic, padded
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Constant, Device, Plan, ceil_div

TILE = 400  # cycles of a tile, beside its blocks: its cosines and sines
BLOCK = 450  # of a block of heads: its steps wait for each other
HEAD = 12.0  # for every 64 lanes of a head that is normed


@dataclass(frozen=True)
class NormedPlan(Plan):
    """Exact sizes; a tile must fit the unified buffer."""

    block_heads: int
    block_kv_heads: int

    def need(self, shape: NormedShape) -> int:
        """Bytes of the unified buffer."""
        lanes = padded(shape.half, 4) * 2 + padded(shape.rest, 4)
        moved = 2 * padded(shape.half, shape.itemsize) + padded(shape.rest, shape.itemsize)
        heads = self.block_heads + self.block_kv_heads
        angles = 12 * padded(shape.half, 4) + 2 * padded(shape.rotary_dim, shape.cache_itemsize)
        return KERNEL_BYTES + 12 * lanes + self.block_tokens * (angles + heads * (3 * lanes + 4 * moved))

    def constants(self, shape: NormedShape, stride_unit: int = 1) -> dict[str, Constant]:
        return shape.constants() | {"BLOCK_Q": self.block_heads, "BLOCK_K": self.block_kv_heads}

    def fits(self, shape: NormedShape, device: Device) -> bool:
        return self.need(shape) <= device.tile_bytes

    def cycles(self, shape: NormedShape, device: Device, num_tokens: int) -> float:
        """Of the whole launch, from the start of its first program on."""
        programs, each = self.grid(num_tokens, device)
        items = ceil_div(each, self.block_tokens)
        blocks = ceil_div(shape.num_heads, self.block_heads) + ceil_div(shape.num_kv_heads, self.block_kv_heads)
        heads = (shape.num_heads + shape.num_kv_heads) * self.block_tokens
        work = TILE + (BLOCK * blocks + HEAD * heads * ceil_div(shape.head_size, 64)) / self.units
        size = shape.heads * shape.head_size * shape.itemsize
        traffic = memory_traffic(size, size) * self.block_tokens / self.units
        return PROGRAM * programs + math.hypot(FIRST + items * work, 2 * traffic * items * programs / HBM)
