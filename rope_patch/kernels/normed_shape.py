"""What plans of norm and rotation follow from, and what their kernels are told."""

from dataclasses import dataclass

from rope_patch.kernels.ascend import BLOCK_BYTES
from rope_patch.kernels.orders import order_of
from rope_patch.kernels.plan import SCRATCH_BYTES, Constant, Device


@dataclass(frozen=True)
class NormedShape:
    """The facts of a call that decide its plan.

    ``axes`` says which of three positions each pair of lanes turns by (``orders.py``); empty for one. ``itemsize`` is
    the bytes of an element of qkv, ``cache_itemsize`` of the cosines and sines. ``by_position`` says whether these are
    rows of a cache that positions choose; else row t is token t's. ``token_stride`` is qkv's, in elements.
    """

    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int
    eps: float
    token_stride: int
    itemsize: int
    cache_itemsize: int
    by_position: bool = True
    axes: str = ""
    has_gate: bool = False
    has_bias: bool = False

    @property
    def half(self) -> int:
        """How many pairs of lanes of a head turn."""
        return self.rotary_dim // 2

    @property
    def rest(self) -> int:
        """How many lanes of a head are normed only."""
        return self.head_size - self.rotary_dim

    @property
    def halves_are_blocks(self) -> bool:
        """Whether the parts of a head begin at whole blocks of Ascend's unified buffer."""
        return not any(lanes * self.itemsize % BLOCK_BYTES for lanes in (self.half, self.head_size))

    @property
    def heads(self) -> int:
        """In a row of qkv, gates included."""
        return self.num_heads * (2 if self.has_gate else 1) + 2 * self.num_kv_heads

    def constants(self) -> dict[str, Constant]:
        """What all kernels are told."""
        found: dict[str, Constant] = {
            "Q_HEADS": self.num_heads,
            "K_HEADS": self.num_kv_heads,
            "HEAD_SIZE": self.head_size,
            "HALF": self.half,
            "EPS": self.eps,
        }
        if not self.axes:
            return found | {"axis_stride": None}  # not among the numbers then
        return found | dict(zip(("ORDER", "H_PAIRS", "W_PAIRS"), order_of(self.axes) or (), strict=False))

    def tried_tokens(self, device: Device) -> int:
        """Tokens of the largest tile that a first-use check can try within SCRATCH_BYTES: with one token more than the
        tile has, rows of qkv and of the outputs."""
        return max(1, SCRATCH_BYTES // (2 * self.heads * self.head_size * self.itemsize) - 1)
