"""Plans for Ascend: exact sizes, tiles that fit the unified buffer, chosen by what they would cost.

Nothing here was tuned on an NPU: costs are those of the clock (``scripts/model_ascend``), what a tile needs is what
Huawei's compilers say of it (``buffer_ascend.py``).
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from rope_patch.kernels import buffer_ascend, cost_ascend
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Plan, Shape, ceil_div, tried_tokens, units_of

# What memory is asked for; parts of heads that are whole requests can be moved by themselves.
REQUEST_BYTES = 128
# Few tokens are spread over cores by blocks of heads of this size: smaller ones would win nothing that starting more
# cores does not cost.
SPREAD_BYTES = 4 * 1024
# So many of them one after the other take a core about as long as one small tile.
MOST_BLOCKS = 8
# How many tokens the tiles are for: prefills as vLLM cuts them, and what is left over of them.
MANY_TOKENS, SOME_TOKENS = (2048, 8192), (64, 256, 512)


def steps(shape: Shape, device: Device) -> tuple[tuple[Plan, float], ...]:
    """See ``planning``: blocks of heads of single tokens; small tiles; the largest, once all cores get one."""
    tiles, spread = list(_tiles(shape, device)), _spread(shape, device)
    most = MOST_BLOCKS * device.max_programs // spread.units
    full = _cheapest(tiles, shape, device, MANY_TOKENS)
    some = tuple(tokens for tokens in SOME_TOKENS if tokens > most)
    small = _cheapest([t for t in tiles if t.block_tokens <= full.block_tokens], shape, device, some or SOME_TOKENS)
    most = max(most, small.least_tokens - 1)
    return (
        (spread, most),
        (small, max(most, device.max_programs * (full.block_tokens - 1))),
        (full, math.inf),
    )


def _cheapest(tiles: Iterable[Plan], shape: Shape, device: Device, tokens: tuple[int, ...]) -> Plan:
    """Over those numbers of tokens, each in parts of the best for it; then the one with the smaller tile."""
    costs = {plan: [cost_ascend.cycles(plan, shape, device, number) for number in tokens] for plan in tiles}
    best = [min(cost[n] for cost in costs.values()) for n in range(len(tokens))]
    return min(
        costs, key=lambda plan: (sum(c / b for c, b in zip(costs[plan], best, strict=True)), plan.block_tokens)
    )  # fmt: skip


def _tiles(shape: Shape, device: Device) -> Iterable[Plan]:
    """All tiles that fit: of as many tokens as a core gets of a number of tokens, or an even part of them."""
    most = tried_tokens(shape, device)
    # A row is no wider than it is from the next one, so this has room for the last row's width too.
    most = min(most, MAX_TILE_OFFSET // max(1, shape.token_stride)) if halves_are_blocks(shape) else 1
    per_core = [ceil_div(tokens, device.max_programs) for tokens in (*MANY_TOKENS, *SOME_TOKENS)]
    heights = {1} | {ceil_div(each, parts) for each in per_core for parts in range(1, each + 1)}
    heads = math.gcd(shape.num_heads, shape.num_kv_heads)
    for tokens in sorted(height for height in heights if height <= max(1, most)):
        for block in (block for block in range(1, heads + 1) if heads % block == 0):
            for whole in _ways(shape):
                plan = _plan(shape, tokens, block, block if shape.num_kv_heads else 1, whole)
                if buffer_ascend.bytes_of(plan, shape) <= device.tile_bytes or tokens * block == 1:
                    yield plan


def _plan(shape: Shape, tokens: int, block_heads: int, block_kv_heads: int, whole: bool) -> Plan:
    return Plan(
        block_tokens=tokens,
        block_heads=block_heads,
        block_kv_heads=block_kv_heads,
        pairs=_pairs(shape),
        whole=whole,
        wide_rows=halves_are_blocks(shape),
        overlap=shape.fresh and tokens > 1,
        by_head=tokens > 1 and block_heads > 1,
    )


def _spread(shape: Shape, device: Device) -> Plan:
    most = max(1, SPREAD_BYTES // cost_ascend.moved_bytes(shape))
    heads, kv_heads = _divisor(shape.num_heads, most), _divisor(shape.num_kv_heads, most)
    plan = replace(_plan(shape, 1, heads, kv_heads, _ways(shape)[0]), units=units_of(shape, heads, kv_heads))
    while buffer_ascend.bytes_of(plan, shape) > device.tile_bytes and max(heads, kv_heads) > 1:
        most = max(heads, kv_heads) - 1
        heads, kv_heads = _divisor(shape.num_heads, most), _divisor(shape.num_kv_heads, most)
        plan = replace(
            plan, block_heads=heads, block_kv_heads=kv_heads, units=units_of(shape, heads, kv_heads)
        )  # fmt: skip
    return plan


def _pairs(shape: Shape) -> str:
    """How the kernel takes pairs of lanes apart: see ``rope.py``."""
    return "halves" if shape.is_neox_style else "words" if shape.whole_words else "slices"


def _ways(shape: Shape) -> list[bool]:
    """Whether heads are moved whole, which ways are worth a look: whole where they can be cut, and in parts where those
    are whole requests by themselves."""
    parts = cost_ascend.parts(shape)
    cut = parts[0] % buffer_ascend.BLOCK_BYTES or shape.head_size * shape.itemsize % buffer_ascend.BLOCK_BYTES
    if cut or len(parts) == 1 or _pairs(shape) == "slices":
        return [False]
    return [True] if any(part % REQUEST_BYTES for part in parts) else [True, False]


def _divisor(heads: int, most: int) -> int:
    """The largest block of at most ``most`` heads that divides them: nothing masks the rest."""
    return max(block for block in range(1, max(1, min(heads, most)) + 1) if max(1, heads) % block == 0)


def halves_are_blocks(shape: Shape) -> bool:
    """Whether half a cache row is whole blocks: then rows of several tokens can be gathered, one DMA each, and a whole
    row be cut in the unified buffer.

    triton-ascend 3.2.0's front end makes a loop over single elements of other rows. And Ascend's compiler widens cos
    and sin after it has cut them apart, where they would begin between two blocks: a vector instruction must not.
    """
    return shape.rotary_dim // 2 * shape.cache_itemsize % buffer_ascend.BLOCK_BYTES == 0
