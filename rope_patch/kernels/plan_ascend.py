"""Plans for Triton-Ascend: exact sizes, no masks, tiles that fit the unified buffer, few and large DMA transfers.

Rates and limits are those of ``CANN``'s platform files and of Triton-Ascend's documentation; nothing here was tuned on
an NPU.
"""

import math
from dataclasses import replace

from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Plan, Shape, ceil_div, units_of

# The last axis of a tile in the unified buffer is padded to whole blocks, and slices of it must begin at one.
BLOCK_BYTES = 32
# Of unified buffer, for everything that is not a tile: the allowance of a rule of thumb given in vllm-ascend #10388.
RESERVED_BYTES = 8 * 1024
# A DMA transfer is near its peak rate from here on (Triton-Ascend's guide).
GOOD_TRANSFER_BYTES = 16 * 1024
# The first-use check runs a whole tile and a tail, fresh outputs beside them, in 1 MiB: no tile has tokens for more.
MOST_BYTES_OF_TOKENS = 640 * 1024
# Few tokens are spread over cores by blocks of heads of this size. At 32 bytes a cycle its transfer takes 0.07 us of
# the 2.5 to 3 us that any kernel takes: smaller ones would win nothing that starting more cores does not cost.
SPREAD_BYTES = 4 * 1024
# So many of them one after the other take a core about as long as one small tile (modelled, scripts/model_ascend).
MOST_BLOCKS = 4


def steps(shape: Shape, device: Device) -> tuple[tuple[Plan, float], ...]:
    """See ``planning``: blocks of heads of single tokens; small tiles; the largest, once all cores get one."""
    full = min(
        (_plan(shape, tokens, device) for tokens in _heights(shape, device)), key=lambda plan: _cost(shape, plan)
    )
    small = _plan(shape, max(1, full.block_tokens // 4), device)
    most = max(1, SPREAD_BYTES // _moved_bytes(shape))
    spread = replace(
        small,
        block_tokens=1,
        block_heads=_divisor(shape.num_heads, min(most, _rows(shape, 1, device))),
        block_kv_heads=_divisor(shape.num_kv_heads, min(most, _rows(shape, 1, device))),
    )
    spread = replace(spread, units=units_of(shape, spread.block_heads, spread.block_kv_heads))
    return (
        (spread, MOST_BLOCKS * device.max_programs // spread.units),
        (small, device.max_programs * full.block_tokens - 1),
        (full, math.inf),
    )


def _heights(shape: Shape, device: Device) -> list[int]:
    """The numbers of tokens that a tile may have: 1, and others that leave room for a head of each."""
    most = (
        MOST_BYTES_OF_TOKENS
        // (2 if shape.fresh else 1)
        // ((shape.num_heads + shape.num_kv_heads) * shape.head_size * shape.itemsize)
    )
    # A row is no wider than it is from the next one, so this has room for the last row's width too.
    most = min(most, MAX_TILE_OFFSET // max(1, shape.token_stride)) if _halves_are_blocks(shape) else 1
    return [1] + [tokens for tokens in range(2, most + 1) if _rows(shape, tokens, device) >= tokens]


def _plan(shape: Shape, tokens: int, device: Device) -> Plan:
    most = max(1, _rows(shape, tokens, device) // tokens)
    half, pairs = shape.rotary_dim // 2, _pairs(shape, device)
    # What is cut out of a whole head: each half of the rotary part, or all of it.
    cut = half if shape.is_neox_style else shape.rotary_dim
    aligned = not (cut * shape.itemsize % BLOCK_BYTES or shape.head_size * shape.itemsize % BLOCK_BYTES)
    return Plan(
        block_tokens=tokens,
        block_heads=_divisor(shape.num_heads, most),
        block_kv_heads=_divisor(shape.num_kv_heads, most),
        half_lanes=half,
        rest_lanes=max(1, (shape.head_size - shape.rotary_dim) // (2 if pairs == "words" else 1)),
        units=0,
        pairs=pairs,
        wide_heads=device.slices and aligned and pairs != "slices",
        wide_rows=device.slices and _halves_are_blocks(shape),
    )


def _pairs(shape: Shape, device: Device) -> str:
    """How the kernel takes pairs of lanes apart: see ``rope.py``."""
    if shape.is_neox_style:
        return "halves"
    if shape.whole_words:
        return "words"
    return "slices" if device.slices else "split"


def _divisor(heads: int, most: int) -> int:
    """The largest block of at most ``most`` heads that divides them: nothing masks the rest."""
    return max(block for block in range(1, max(1, min(heads, most)) + 1) if max(1, heads) % block == 0)


def _halves_are_blocks(shape: Shape) -> bool:
    """Whether half a cache row is whole blocks: then rows of several tokens can be gathered, one DMA each, and a whole
    row be cut in the unified buffer.

    triton-ascend 3.2.0's front end makes a loop over single elements of other rows. And Ascend's compiler widens cos
    and sin after it has cut them apart, where they would begin between two blocks: a vector instruction must not.
    """
    return shape.rotary_dim // 2 * shape.cache_itemsize % BLOCK_BYTES == 0


def _padded(lanes: int, itemsize: int) -> int:
    """Bytes of so many lanes in the unified buffer."""
    return ceil_div(lanes * itemsize, BLOCK_BYTES) * BLOCK_BYTES


def _rows(shape: Shape, tokens: int, device: Device) -> int:
    """How many (token, head) rows fit beside the cosines and sines of ``tokens`` tokens."""
    half, rest = shape.rotary_dim // 2, shape.head_size - shape.rotary_dim if shape.fresh else 0
    table_bytes = 4 * _padded(half, shape.cache_itemsize) + 2 * _padded(half, 4)
    row_bytes = _turning_bytes(half, shape.itemsize, _pairs(shape, device)) + 2 * _padded(rest, shape.itemsize)
    return max(0, (device.tile_bytes - RESERVED_BYTES - tokens * table_bytes) // row_bytes)


def _turning_bytes(half: int, itemsize: int, pairs: str) -> int:
    """Unified buffer for the rotary part of a row: two buffers each for what is loaded and stored, so that one moves
    while the other is at work, and fp32 in between. No plan for a shape of tests/shapes.py overflows it by the verdict
    of bishengir-compile 1.0.0, 1.1.0 or 1.2.0; the first is the strictest.
    """
    if pairs == "words":
        return 9 * _padded(half, 4)
    turning = 4 * _padded(half, itemsize) + 6 * _padded(half, 4)
    if pairs == "slices":  # putting pairs together takes five times what comes out; narrow ones are taken apart narrow
        turning += (10 if itemsize == 4 else 14) * _padded(half, itemsize)
    return turning


def _moved_bytes(shape: Shape) -> int:
    """What is moved of one head, each way."""
    return (shape.head_size if shape.fresh else shape.rotary_dim) * shape.itemsize


def _cost(shape: Shape, plan: Plan) -> tuple[float, int]:
    """Bytes a token, where no transfer counts as less than a good one; then the fewest tokens: the longest bursts."""
    tokens, row = plan.block_tokens, plan.block_tokens * _moved_bytes(shape)
    blocks = (shape.num_heads, plan.block_heads), (shape.num_kv_heads, plan.block_kv_heads)
    return sum(heads / block * max(GOOD_TRANSFER_BYTES, block * row) for heads, block in blocks) / tokens, tokens
