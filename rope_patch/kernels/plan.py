"""How a rotation is cut into programs and tiles: what a plan is, and what it follows from.

``plan_ascend`` and ``plan_padded`` know which plans are good for which back end, ``planning`` which is a call's.
"""

from dataclasses import dataclass

# Offsets inside a tile are 32-bit, and so are the strides.
MAX_TILE_OFFSET = 2**31 - 1
# What the first-use check may take at most: vLLM's memory profiling must count what it counted without us.
SCRATCH_BYTES = 2**20


@dataclass(frozen=True)
class Device:
    """What tiling needs to know of a device.

    Attributes:
        max_programs: how many programs to start at most (on Ascend, the vector cores).
        tile_bytes: fast memory for one tile: the unified buffer, or what stands for it elsewhere.
        powers_of_two: whether blocks must be powers of two, and be masked (mainline Triton): another kernel.
        stride_unit: what to divide strides by, if all are multiples of it (CUDA, for wide accesses), or 1.
        busy_programs: from how many programs on the device counts as busy; fewer are made smaller, and more.
    """

    max_programs: int
    tile_bytes: int
    powers_of_two: bool
    stride_unit: int = 1
    busy_programs: int = 1


@dataclass(frozen=True)
class Shape:
    """What of a call decides its kernel.

    ``token_stride`` is the largest of the tensors', in elements; ``itemsize`` and ``cache_itemsize`` are bytes of an
    element of q and k, and of the cache; ``fresh`` whether any output is a tensor of its own; ``whole_words`` whether
    every pair of lanes (2 i, 2 i + 1) is an aligned 32-bit word.
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
    whole_words: bool = False


@dataclass(frozen=True)
class Plan:
    """What of a kernel follows from shape and device; ``rope.py`` and ``padded.py`` say what its arguments mean.

    ``units`` is 0 where programs walk tokens with all their heads, else the number of blocks of heads of a token.
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
    def least_tokens(self) -> int:
        """A tile that may begin early must find as many tokens as it has."""
        return self.block_tokens if self.overlap else 1

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """(programs, what each has): contiguous runs of tokens, or of items.

        Runs are of whole tiles but for the last; where tiles may overlap, of tokens as even as can be.
        """
        items = ceil_div(num_tokens, self.block_tokens) * (self.units or 1)
        each = ceil_div(items, min(items, device.max_programs))
        programs = ceil_div(items, each)
        if self.overlap:
            each = ceil_div(num_tokens, programs)
            return ceil_div(num_tokens, each), each
        return programs, each if self.units else each * self.block_tokens


def tried_tokens(shape: Shape, device: Device) -> int:
    """The largest tile that the first-use check (``trust.trial``) can try: with a tail, fresh outputs beside it,
    strides rounded up, and a row more of each tensor."""
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
