"""Plans of norm and rotation for mainline Triton: blocks are powers of two, and masked. CUDA is a proxy."""

from collections.abc import Iterable
from dataclasses import dataclass

from rope_patch.kernels.normed_padded import normed_kernel_padded
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.padded_plan import _down, _even_block, _up, _wide_block
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Constant, Device, Plan, ceil_div

BYTES_PER_HALF_LANE = 32  # as for the rotation: registers, not memory


@dataclass(frozen=True)
class NormedPadded(Plan):
    """Blocks of heads of a tile, one for each program."""

    function = normed_kernel_padded
    powers_of_two = True

    block_tokens: int
    block_heads: int
    block_kv_heads: int
    units: int

    @classmethod
    def candidates(cls, shape: NormedShape, device: Device) -> Iterable["NormedPadded"]:
        """A tile of one token, and the largest; ``planning`` says when which one is used."""
        lanes = _up(ceil_div(shape.head_size, 2))
        rows = max(1, device.tile_bytes // (BYTES_PER_HALF_LANE * lanes))
        most = max(1, rows // 2)
        yield cls._of(shape, 1, _wide_block(shape.num_heads, most), _wide_block(shape.num_kv_heads, most))
        block_heads = _even_block(shape.num_heads, rows)
        most = min(shape.tried_tokens(device), MAX_TILE_OFFSET // max(1, shape.token_stride) // 2)
        tokens = min(max(1, rows // block_heads), _down(max(1, most)))
        yield cls._of(shape, tokens, block_heads, _even_block(shape.num_kv_heads, max(1, rows // tokens)))

    @classmethod
    def _of(cls, shape: NormedShape, tokens: int, heads: int, kv_heads: int) -> "NormedPadded":
        return cls(tokens, heads, kv_heads, ceil_div(shape.num_heads, heads) + ceil_div(shape.num_kv_heads, kv_heads))

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """A program takes one item, however many programs there are."""
        return ceil_div(num_tokens, self.block_tokens) * self.units, 1

    def constants(self, shape: NormedShape, stride_unit: int = 1) -> dict[str, Constant]:
        return shape.constants() | {
            "HALF_LANES": _up(shape.half),
            "REST_LANES": _up(max(1, shape.rest)),
            "HEAD_LANES": _up(shape.head_size),
            "BLOCK_T": self.block_tokens,
            "BLOCK_Q": self.block_heads,
            "BLOCK_K": self.block_kv_heads,
            "STRIDE_UNIT": stride_unit,
        }
