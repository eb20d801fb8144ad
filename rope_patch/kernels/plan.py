"""What a plan is: how a kernel's work is cut into programs and tiles. Each kernel has a class of plans, beside it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

# Offsets inside a tile have 32 bits, and so have the strides.
MAX_TILE_OFFSET = 2**31 - 1
# The most memory that the first-use check may take, so that vLLM's memory profiling gives what it gives without it.
SCRATCH_BYTES = 2**20

Constant = int | bool | float | str | None


@dataclass(frozen=True)
class Device:
    """What tiling needs to know of a device.

    Attributes:
        max_programs: the most programs to start (on Ascend, the number of vector cores).
        tile_bytes: fast memory for one tile: the unified buffer, or its counterpart elsewhere.
        powers_of_two: whether blocks must be powers of two and be masked (mainline Triton, which has its own kernel).
        stride_unit: what strides are divided by if all are multiples of it (16 on CUDA, for wide accesses), else 1.
        busy_programs: how many programs keep the device busy; below that, smaller tiles make more programs.
    """

    max_programs: int
    tile_bytes: int
    powers_of_two: bool
    stride_unit: int = 1
    busy_programs: int = 1


class Plan(ABC):
    """A kernel, and how work is cut for it: a frozen dataclass. ``shape`` is whatever an operator's plans follow from.

    A program takes a run of items. An item is a tile of ``block_tokens`` tokens, or one of its ``units`` blocks of
    heads. Where ``splits_tokens``, programs share a token: for fewer tokens than would keep the cores at work.
    """

    function: ClassVar[Any]  # the Triton kernel
    powers_of_two: ClassVar[bool] = False  # whether it is for devices that need them
    splits_tokens: ClassVar[bool] = False

    block_tokens: int
    units: int

    @classmethod
    @abstractmethod
    def candidates(cls, shape: Any, device: Device) -> Iterable["Plan"]:
        """Plans worth a look, from the smallest tile to the largest that fits the device's fast memory."""

    @abstractmethod
    def constants(self, shape: Any, stride_unit: int = 1) -> dict[str, Constant]:
        """The kernel's constexpr arguments, except output pointers of None."""

    def cycles(self, shape: Any, device: Device, num_tokens: int) -> float | None:
        """What a launch costs; None if nothing models that."""
        return None

    @property
    def in_words(self) -> bool:
        """Whether the kernel takes each pair of 16-bit lanes as one 32-bit word; strides then count words."""
        return False

    @property
    def least_tokens(self) -> int:
        """The fewest tokens that the plan can serve."""
        return 1

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """(number of programs, how many items, or tokens, each takes)."""
        items = ceil_div(num_tokens, self.block_tokens) * self.units
        each = ceil_div(items, min(items, device.max_programs))
        return ceil_div(items, each), each

    def facts(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {"kernel": self.function.__name__, "block_tokens": self.block_tokens} | vars(self)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
