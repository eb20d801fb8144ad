"""How a rotation is cut into programs and tiles: what a plan is, and what it follows from.

``plan_ascend`` and ``plan_padded`` know which plans are good for which back end, ``planning`` which is a call's.
"""

from dataclasses import dataclass

# Offsets inside a tile are 32-bit, and so are the strides.
MAX_TILE_OFFSET = 2**31 - 1


@dataclass(frozen=True)
class Device:
    """What tiling needs to know of a device.

    Attributes:
        max_programs: how many programs to start at most (on Ascend, the vector cores).
        tile_bytes: fast memory for one tile: the unified buffer, or what stands for it elsewhere.
        powers_of_two: whether blocks must be powers of two, and be masked (mainline Triton).
        slices: whether tiles can be cut in fast memory (``tl.extract_slice``: Triton-Ascend, compiled).
        stride_unit: what to divide strides by, if all are multiples of it (CUDA, for wide accesses), or 1.
        busy_programs: from how many programs on the device counts as busy; fewer are made smaller, and more.
    """

    max_programs: int
    tile_bytes: int
    powers_of_two: bool
    slices: bool = False
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
    """Constexpr arguments of ``rotary_kernel`` that follow from shape and device; ``rope.py`` says what they mean.

    ``rest_lanes`` are of what ``pairs`` says the kernel moves: elements, or words.
    ``units`` is 0 where programs take tokens with all their heads, else the number of blocks of heads of a token.
    """

    block_tokens: int
    block_heads: int
    block_kv_heads: int
    half_lanes: int
    rest_lanes: int
    units: int
    pairs: str
    wide_heads: bool = False
    wide_rows: bool = False
    padded: bool = False

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """(programs, what each has): contiguous runs of tokens, whole tiles but for the last, or of items."""
        items = ceil_div(num_tokens, self.block_tokens) * (self.units or 1)
        each = ceil_div(items, min(items, device.max_programs))
        return ceil_div(items, each), each if self.units else each * self.block_tokens


def units_of(shape: Shape, block_heads: int, block_kv_heads: int) -> int:
    """How many blocks of heads a token has."""
    return ceil_div(shape.num_heads, block_heads) + ceil_div(shape.num_kv_heads, block_kv_heads)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
