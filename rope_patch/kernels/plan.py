"""What a plan is: how a rotation is cut into programs and tiles, and the facts that decide it.

``plan_ascend`` and ``plan_padded`` choose the plans of a shape on their back end, ``planning`` the one for a call.
"""

from dataclasses import dataclass

# Offsets inside a tile have 32 bits, and so have the strides.
MAX_TILE_OFFSET = 2**31 - 1
# The most memory that the first-use check may take, so that vLLM's memory profiling gives what it gives without it.
SCRATCH_BYTES = 2**20


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


@dataclass(frozen=True)
class Shape:
    """The facts of a call that decide its plan.

    ``token_stride`` is the larger one of q's and k's, in elements. ``itemsize`` and ``cache_itemsize`` are the bytes of
    an element of q and k, and of the cache. ``fresh`` says whether any output is a new tensor. ``words`` is "bf16
    words" or "fp16 words" where q and k are of that type and every GPT-J pair of lanes is an aligned 32-bit word.
    ``axes`` says which of a token's three positions each pair of lanes turns by (``axes.py``); empty for one position.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    token_stride: int
    itemsize: int
    cache_itemsize: int
    fresh: bool
    words: str = ""
    axes: str = ""


@dataclass(frozen=True)
class Plan:
    """The arguments of a kernel that follow from shape and device; ``rope.py`` and ``padded.py`` explain them.

    ``units`` is the number of blocks that the heads of a token are cut into; 0 if a program takes all heads of a token.
    """

    block_tokens: int
    block_heads: int
    block_kv_heads: int
    units: int = 0
    pairs: str = ""
    whole: bool = False
    wide_rows: bool = False
    overlap: bool = False
    by_head: bool = False
    half_lanes: int = 0
    rest_lanes: int = 0
    padded: bool = False

    @property
    def in_words(self) -> bool:
        """Whether the kernel takes each pair of 16-bit lanes as one 32-bit word; strides then count words."""
        return self.pairs.endswith("words")

    @property
    def least_tokens(self) -> int:
        """The fewest tokens that the plan can serve. A tile that may overlap the one before it must always be full."""
        return self.block_tokens if self.overlap else 1

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """(number of programs, how many tokens each takes, or how many items if there are units).

        Programs take contiguous runs of whole tiles; the last run may be shorter. Where tiles may overlap, the runs are
        as even as possible instead.
        """
        items = ceil_div(num_tokens, self.block_tokens) * (self.units or 1)
        each = ceil_div(items, min(items, device.max_programs))
        programs = ceil_div(items, each)
        if self.overlap:
            each = ceil_div(num_tokens, programs)
            return ceil_div(num_tokens, each), each
        return programs, each if self.units else each * self.block_tokens


def tried_tokens(shape: Shape, device: Device) -> int:
    """Tokens of the largest tile that the first-use check (``trust.trial``) can try within SCRATCH_BYTES.

    It needs room for one token more than the tile has, for fresh outputs, for rounded strides and for gaps between
    rows.
    """
    heads = [number for number in (shape.num_heads, shape.num_kv_heads) if number]
    rows = sum((2 if shape.fresh else 1) * number + 1 for number in heads)
    head_stride = ceil_div(shape.head_size, device.stride_unit) * device.stride_unit
    return max(1, SCRATCH_BYTES // (max(1, rows) * head_stride * shape.itemsize) - 1)


def units_of(shape: Shape, block_heads: int, block_kv_heads: int) -> int:
    """How many blocks of heads a token has."""
    return ceil_div(shape.num_heads, block_heads) + ceil_div(shape.num_kv_heads, block_kv_heads)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
