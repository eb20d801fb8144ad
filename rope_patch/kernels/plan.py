"""How a rotation is cut into programs and tiles: a pure function of shape and device facts."""

from dataclasses import dataclass

# What a tile costs in unified buffer, per (token, head) row and per half lane: two fp32 inputs, their products and
# results, and a second set of DMA buffers while the first is at work. Read off upstream's overflow reports, which imply
# 24 to 32 bytes (vllm-ascend #12733, #8313, #11536, and the formula of #10388).
BYTES_PER_HALF_LANE = 32
# The last axis of a tile is padded to whole 32-byte blocks there, 16 lanes of 16 bits.
LANES_PER_BLOCK = 16
RESERVED_BYTES = 8 * 1024  # the same formula's allowance for everything that is not a tile

# A gather of cache rows is one DMA per row where half a row is whole 32-byte blocks; else triton-ascend 3.2.0's front
# end makes a loop over single elements of it (seen in its output). A tile of one token, which gathers nothing, is used.
BLOCK_BYTES = 32

# Offsets inside a tile are 32-bit, and so are the strides.
MAX_TILE_OFFSET = 2**31 - 1


@dataclass(frozen=True)
class Device:
    """What tiling needs to know of a device.

    Attributes:
        max_programs: how many programs to start at most (on Ascend, the vector cores).
        tile_bytes: fast memory for one tile: the unified buffer, or what stands for it elsewhere.
        powers_of_two: whether ``tl.arange`` wants powers of two (mainline Triton).
    """

    max_programs: int
    tile_bytes: int
    powers_of_two: bool


@dataclass(frozen=True)
class Shape:
    """What of a call decides its kernel.

    ``token_stride`` is the largest of the tensors', in elements; ``half_row_bytes`` what the cosines of one position
    take in the cache.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_dim: int
    token_stride: int
    half_row_bytes: int


@dataclass(frozen=True)
class Plan:
    """Constexpr arguments of ``rotary_kernel`` that follow from shape and device."""

    block_tokens: int
    block_heads: int
    block_kv_heads: int
    half_lanes: int
    rest_lanes: int
    padded: bool

    def grid(self, num_tokens: int, device: Device) -> tuple[int, int]:
        """(programs, tokens per program): contiguous runs of whole tiles, the last one cut short."""
        tiles = -(-num_tokens // self.block_tokens)
        tokens_per_program = -(-tiles // min(tiles, device.max_programs)) * self.block_tokens
        return -(-num_tokens // tokens_per_program), tokens_per_program


def _power_of_two_up(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _power_of_two_down(n: int) -> int:
    return 1 << max(n.bit_length() - 1, 0)


def _head_block(heads: int, limit: int, powers_of_two: bool) -> int:
    """The widest block of at most ``limit`` heads; unpadded blocks must divide the heads, since nothing masks them."""
    heads, limit = max(1, heads), max(1, limit)
    if powers_of_two:
        return min(_power_of_two_up(heads), _power_of_two_down(limit))
    return max(block for block in range(1, min(heads, limit) + 1) if heads % block == 0)


def token_blocks(shape: Shape, device: Device) -> tuple[int, ...]:
    """The tile heights that a signature may use, smallest first: at most three, hence at most three compiles."""
    if not device.powers_of_two and shape.half_row_bytes % BLOCK_BYTES:
        return (1,)
    rows = _rows(shape, device)
    full = _power_of_two_down(max(1, rows // _head_block(shape.num_heads, rows, device.powers_of_two)))
    full = min(full, _power_of_two_down(max(1, MAX_TILE_OFFSET // max(1, shape.token_stride) // 2)))
    return tuple(sorted({1, max(1, full // 4), full}))


def _rows(shape: Shape, device: Device) -> int:
    """How many (token, head) rows fit in a tile, pass-through lanes counted as half a lane's cost each."""
    lanes = _padded(shape.rotary_dim // 2, device) + _padded(shape.head_size - shape.rotary_dim, device) // 2
    return max(1, (device.tile_bytes - RESERVED_BYTES) // (BYTES_PER_HALF_LANE * lanes))


def _padded(lanes: int, device: Device) -> int:
    """What ``lanes`` lanes take in fast memory."""
    if device.powers_of_two:
        return _power_of_two_up(lanes) if lanes else 0
    return -(-lanes // LANES_PER_BLOCK) * LANES_PER_BLOCK


def make_plan(shape: Shape, num_tokens: int, device: Device) -> Plan:
    """The plan for ``num_tokens`` tokens: the smallest tile that still gives every program at most one.

    Few tokens are spread over the programs, many are taken in the largest tiles that fit.
    """
    blocks = token_blocks(shape, device)
    block = next((b for b in blocks if b * device.max_programs >= num_tokens), blocks[-1])
    rows = _rows(shape, device)
    lanes = _power_of_two_up if device.powers_of_two else int
    return Plan(
        block_tokens=block,
        block_heads=_head_block(shape.num_heads, rows // block, device.powers_of_two),
        block_kv_heads=_head_block(shape.num_kv_heads, rows // block, device.powers_of_two),
        half_lanes=lanes(shape.rotary_dim // 2),
        rest_lanes=lanes(max(1, shape.head_size - shape.rotary_dim)),
        padded=device.powers_of_two,
    )
