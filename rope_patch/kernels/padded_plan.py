"""Plans for mainline Triton: blocks are powers of two, and masked.

CUDA is a proxy, to measure the kernel on an accelerator at all. The constants come from a sweep over tile sizes, blocks
of heads and warps on an H200, for the shapes of ``scripts/bench_gpu``. With many tokens, 1024 half lanes for 128
threads were within 4% of the best in every case; with few tokens, half as many were within the noise of the best.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rope_patch.kernels.orders import order_of
from rope_patch.kernels.padded import rotary_kernel_padded
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Constant, Device, Plan
from rope_patch.kernels.shape import Shape

BYTES_PER_HALF_LANE = 32  # two fp32 inputs, their products, and their results: registers, not memory
MOST_HEADS = 8


@dataclass(frozen=True)
class Padded(Plan):
    """Blocks of heads of a tile, one for each program."""

    function = rotary_kernel_padded
    powers_of_two = True

    block_tokens: int
    block_heads: int
    block_kv_heads: int
    half_lanes: int
    rest_lanes: int
    units: int

    @classmethod
    def candidates(cls, shape: Shape, device: Device) -> Iterable["Padded"]:
        """A tile of one token, and the largest; ``planning`` says when which one is used."""
        rows = max(1, device.tile_bytes // (BYTES_PER_HALF_LANE * _up(shape.half)))
        most = max(1, rows // 2)
        yield cls._of(shape, 1, _wide_block(shape.num_heads, most), _wide_block(shape.num_kv_heads, most))
        block_heads = _even_block(shape.num_heads, rows)
        most = min(shape.tried_tokens(device), MAX_TILE_OFFSET // max(1, shape.token_stride) // 2)
        tokens = min(rows // block_heads, _down(max(1, most)))
        yield cls._of(shape, tokens, block_heads, _even_block(shape.num_kv_heads, rows // tokens))

    @classmethod
    def _of(cls, shape: Shape, tokens: int, heads: int, kv_heads: int) -> "Padded":
        rest = shape.rotation.head_size - shape.rotation.rotary_dim
        return cls(tokens, heads, kv_heads, _up(shape.half), _up(max(1, rest)), shape.units(heads, kv_heads))

    def constants(self, shape: Shape, stride_unit: int = 1) -> dict[str, Constant]:
        vector = _cosines_at_once(shape)
        return shape.constants() | {
            "IS_NEOX": shape.rotation.is_neox_style,
            "HALF_LANES": self.half_lanes,
            "REST_LANES": self.rest_lanes,
            "BLOCK_T": self.block_tokens,
            "BLOCK_Q": self.block_heads,
            "BLOCK_K": self.block_kv_heads,
            "STRIDE_UNIT": stride_unit,
            "VECTOR": vector,
        }


def _cosines_at_once(shape: Shape) -> int:
    """How many cosines beside each other a CUDA thread needs: those of its lanes, which are 16 bytes; fewer where it
    would reach over from one axis into the next."""
    asked = shape.rotation
    lanes = (16 if asked.is_neox_style else 8) // shape.itemsize  # half of 16 bytes of pairs are first lanes
    if not asked.axes:
        return lanes
    order, h, w = order_of(asked.axes) or ("", 0, 0)
    return math.gcd(lanes, shape.half - h - w, h) if order == "chunked" else 1


def _wide_block(heads: int, most: int) -> int:
    """The block size that needs the fewest blocks for all heads; at most ``most``."""
    return min(_up(max(1, heads)), _down(min(most, MOST_HEADS)))


def _even_block(heads: int, most: int) -> int:
    """The block size, at most ``most``, that leaves the fewest heads masked; the largest of several."""
    blocks = [1 << i for i in range(_wide_block(heads, most).bit_length())]
    return max(blocks, key=lambda block: (-(-(-heads // block) * block), block))


def _up(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _down(n: int) -> int:
    return 1 << max(n.bit_length() - 1, 0)
