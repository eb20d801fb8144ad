"""What the plans of norm and rotation on Ascend have in common: the unified buffer, and a formula for costs.

Both were read off what bishengir-compile 1.0.0, 1.1.0 and 1.2.0 make of 76 plans of seven heads, and what the clock of
``scripts/model_ascend`` says of them (modelled). A compiler that is short of space lets buffers share it: what a plan
needs is what is left then.
"""

import math
from dataclasses import dataclass

from rope_patch.kernels.ascend import HBM, KERNEL_BYTES, PROGRAM, memory_traffic
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Constant, Device, Plan, ceil_div

FIRST = 1300  # cycles until the first tile's heads are there, and its last results away
STEPS, STEP = 17, 23  # one waits for another so often, so long
INSTRUCTION = 29  # of the scalar unit, with flags and barriers around it
INSTRUCTIONS = 44  # of a unit, products with cosines not counted
ROW = 95  # of the scalar unit, for a row of cosines
REGISTER = 64  # lanes of fp32


@dataclass(frozen=True)
class NormedPlan(Plan):
    """Exact sizes; a tile must fit the unified buffer."""

    block_heads: int
    block_kv_heads: int

    def constants(self, shape: NormedShape, stride_unit: int = 1) -> dict[str, Constant]:
        return shape.constants() | {"BLOCK_Q": self.block_heads, "BLOCK_K": self.block_kv_heads}

    def need(self, shape: NormedShape) -> float:
        """Bytes of the unified buffer, if what can share space does."""
        lane = self.block_tokens * shape.head_size  # of one head of the tile
        normed, moved = self.block_heads + self.block_kv_heads, self.block_kv_heads
        if shape.has_gate:
            moved += self.block_heads
        each = 11.5 + 3.0 * shape.rotary_dim / shape.head_size + (2 if shape.head_size % REGISTER else 0)
        # Each unit's loads have buffers of their own.
        later = (shape.num_heads // self.block_heads - 1) * (normed + moved) if self.units == 1 else 0
        row = (32 + (16 if shape.has_bias else 0) + (64 if shape.axes else 0)) * shape.half + 8 * shape.rest
        once = (
            KERNEL_BYTES + 8 * shape.head_size * (2 if shape.has_bias else 1) + (64 * shape.half if shape.axes else 0)
        )
        return once + self.block_tokens * row + lane * (normed * each + 4 * (moved + later))

    def fits(self, shape: NormedShape, device: Device) -> bool:
        return self.need(shape) <= device.tile_bytes

    def cycles(self, shape: NormedShape, device: Device, num_tokens: int) -> float:
        """Of the whole launch, from the start of its first program on."""
        programs, each = self.grid(num_tokens, device)
        items = ceil_div(each, self.block_tokens)
        units = shape.num_heads // self.block_heads if self.units == 1 else 1
        work = units * self._unit(shape) + self.block_tokens * (STEP if units > 1 else 0)
        size = shape.heads * shape.head_size * shape.itemsize
        traffic = memory_traffic(size, size) * self.block_tokens / self.units
        return PROGRAM * programs + math.hypot(FIRST + items * work, 2 * traffic * items * programs / HBM)

    def _unit(self, shape: NormedShape) -> float:
        """Cycles for a unit of a tile: of its vector steps, or of the scalar unit if that takes longer."""
        tokens = self.block_tokens
        registers, half, rest = (ceil_div(x, REGISTER) for x in (shape.head_size, shape.half, shape.rest))
        head = 5.9 * registers + 0.2 + 8.0 * half + (2.3 if shape.head_size % REGISTER else 1.3) * rest
        vector = tokens * (self.block_heads + self.block_kv_heads) * head + STEPS * STEP + tokens * STEP
        k_rows = tokens if self.block_kv_heads > 1 else 1
        products = 4 * tokens + 4 * min(k_rows, self.block_kv_heads) + (tokens * rest if rest else 0)
        axes = 3 if shape.axes else 1
        scalar = INSTRUCTION * (INSTRUCTIONS + products) + ROW * axes * tokens
        return max(vector, scalar) + 100
