"""What is asked of a rotation, and the facts of a call that its plans follow from."""

from dataclasses import dataclass
from typing import NamedTuple

from rope_patch.kernels.orders import order_of
from rope_patch.kernels.plan import SCRATCH_BYTES, Constant, Device, ceil_div


class Rotation(NamedTuple):
    """What is asked of a rotation. A plain tuple, since comparing and hashing those is fast."""

    head_size: int
    rotary_dim: int
    is_neox_style: bool
    axes: str = ""  # which of three positions each pair of lanes turns by (``orders.py``); empty for one position


@dataclass(frozen=True)
class Shape:
    """The facts of a call that decide its plan.

    ``token_stride`` is the larger one of q's and k's, in elements. ``itemsize`` and ``cache_itemsize`` are the bytes of
    an element of q and k, and of the cache. ``fresh`` says whether any output is a new tensor. ``words`` is "bf16
    words" or "fp16 words" where q and k are of that type and every GPT-J pair of lanes is an aligned 32-bit word.
    """

    rotation: Rotation
    num_heads: int
    num_kv_heads: int
    token_stride: int
    itemsize: int
    cache_itemsize: int
    fresh: bool
    words: str = ""

    @property
    def half(self) -> int:
        """How many pairs of lanes of a head turn."""
        return self.rotation.rotary_dim // 2

    def constants(self, lanes: int = 1) -> dict[str, Constant]:
        """What all kernels are told; they count sizes of heads in so many lanes."""
        asked = self.rotation
        found: dict[str, Constant] = {
            "Q_HEADS": self.num_heads,
            "K_HEADS": self.num_kv_heads,
            "HEAD_SIZE": asked.head_size // lanes,
            "HALF": self.half,
        }
        if not asked.axes:
            return found | {"axis_stride": None}  # not among the numbers then
        return found | dict(zip(("ORDER", "H_PAIRS", "W_PAIRS"), order_of(asked.axes) or (), strict=False))

    def units(self, block_heads: int, block_kv_heads: int) -> int:
        """How many blocks of heads a token has."""
        return ceil_div(self.num_heads, block_heads) + ceil_div(self.num_kv_heads, block_kv_heads)

    def tried_tokens(self, device: Device) -> int:
        """Tokens of the largest tile that the first-use check (``serving.trial``) can try within SCRATCH_BYTES.

        It needs room for one token more than the tile has, for fresh outputs, for rounded strides and for gaps between
        rows.
        """
        heads = [number for number in (self.num_heads, self.num_kv_heads) if number]
        rows = sum((2 if self.fresh else 1) * number + 1 for number in heads)
        head_stride = ceil_div(self.rotation.head_size, device.stride_unit) * device.stride_unit
        return max(1, SCRATCH_BYTES // (max(1, rows) * head_stride * self.itemsize) - 1)
