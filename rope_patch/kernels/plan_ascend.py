"""Plans for Ascend: exact sizes, tiles that fit the unified buffer, chosen by what they would cost.

Nothing here was tuned on an NPU: costs are those of the clock (``scripts/model_ascend``), what a tile needs is what
Huawei's compilers say of it (``buffer_ascend.py``).
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

from rope_patch.kernels import buffer_ascend, cost_ascend
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Plan, Shape, ceil_div, tried_tokens, units_of

# What memory is asked for; parts of heads that are whole requests can be moved by themselves.
REQUEST_BYTES = 128
# Blocks of heads of one token are as large as so many bytes allow.
SPREAD_BYTES = (2 * 1024, 4 * 1024, 8 * 1024, 16 * 1024)
# Numbers of tokens that the three plans are for: decoding of a few sequences; of more, and what is left over of
# prefills; prefills as vLLM cuts them.
FEW_TOKENS, SOME_TOKENS, MANY_TOKENS = (1, 2, 4), (16, 32, 64, 128, 256, 512), (2048, 8192)
NEVER = 1e12  # cycles
# So many 16-bit lanes are a block of 32 bytes, and are transposed at once.
LANES = 16


def steps(shape: Shape, device: Device) -> tuple[tuple[Plan, float], ...]:
    """See ``planning``: blocks of heads of single tokens, small tiles, large tiles."""
    tiles = list(_tiles(shape, device))
    spread = _cheapest(list(_spreads(shape, device)), [], FEW_TOKENS, shape, device)
    full = _cheapest(tiles, [], MANY_TOKENS, shape, device)
    small = [spread, *(tile for tile in tiles if tile.block_tokens <= full.block_tokens)]
    return _ranges([spread, _cheapest(small, [spread, full], SOME_TOKENS, shape, device), full], shape, device)


def _cheapest(plans: list[Plan], others: list[Plan], tokens: tuple[int, ...], shape: Shape, device: Device) -> Plan:
    """The plan that costs least together with the ``others``, each number of tokens counted in parts of the least it
    could cost; of several, one of the ``others``, or the one with the smallest tile."""
    beside = [min((_cost(plan, shape, device, number) for plan in others), default=NEVER) for number in tokens]
    costs = {
        plan: [min(_cost(plan, shape, device, number), other) for number, other in zip(tokens, beside, strict=True)]
        for plan in plans
    }
    best = list(map(min, zip(*costs.values(), strict=True)))
    sums = {plan: round(sum(c / b for c, b in zip(cost, best, strict=True)), 6) for plan, cost in costs.items()}
    return min(sums, key=lambda plan: (sums[plan], plan not in others, plan.block_tokens))


def _ranges(plans: list[Plan], shape: Shape, device: Device) -> tuple[tuple[Plan, float], ...]:
    """Each plan with the largest number of tokens that it is for: up to there it saves most beside the next one, as the
    costs at eighths from one power of two to the next have it."""
    numbers = sorted({(8 + eighth) << power >> 3 for power in range(14) for eighth in range(8)})
    plans = list(dict.fromkeys(plans))
    ends = [0]
    for few, more in itertools.pairwise(plans):
        costs = [[_cost(plan, shape, device, number) for number in numbers] for plan in (few, more)]
        saved = list(itertools.accumulate((m - f) / min(f, m) for f, m in zip(*costs, strict=True)))
        # Where the sum of what ``few`` saves is largest.
        end = numbers[saved.index(max(saved))] if max(saved) > 0 else 0
        if more.block_tokens > 1:  # once every core gets a whole tile, waiting for fewer of them is worth more
            end = min(end, device.max_programs * (more.block_tokens - 1))
        ends.append(max(ends[-1], end, more.least_tokens - 1))
    ranges = zip(plans, [*ends[1:], math.inf], strict=True)
    return tuple((plan, end) for (plan, end), begin in zip(ranges, ends, strict=True) if end > begin)


def _cost(plan: Plan, shape: Shape, device: Device, num_tokens: int) -> float:
    return cost_ascend.cycles(plan, shape, device, num_tokens) if num_tokens >= plan.least_tokens else NEVER


def _tiles(shape: Shape, device: Device) -> Iterable[Plan]:
    """All tiles that fit: of as many tokens as a core gets of a number of tokens, or an even part of them.

    Nothing may fit if even one head is too large; then it is that one, and the compiler has the last word.
    """
    if (plan := _transposed(shape)) and buffer_ascend.fits(plan, shape, device):
        yield plan
    most = tried_tokens(shape, device)
    # A row is no wider than it is from the next one, so this has room for the last row's width too.
    most = min(most, MAX_TILE_OFFSET // max(1, shape.token_stride)) if halves_are_blocks(shape) else 1
    per_core = [ceil_div(tokens, device.max_programs) for tokens in (*SOME_TOKENS, *MANY_TOKENS)]
    heights = {1} | {ceil_div(each, parts) for each in per_core for parts in range(1, each + 1)}
    blocks = list(_blocks(shape))
    for tokens in sorted(height for height in heights if height <= max(1, most)):
        for heads, kv_heads in blocks:
            for whole in _ways(shape):
                for by_head in (False, True) if heads == kv_heads > 1 < tokens else (False,):
                    plan = _plan(shape, tokens, heads, kv_heads, whole, by_head)
                    if buffer_ascend.fits(plan, shape, device) or tokens * heads * kv_heads == 1:
                        yield plan


def _blocks(shape: Shape) -> Iterable[tuple[int, int]]:
    """Sizes of blocks of heads of q and of k that are worth a look: equal ones; and a whole, a half, a quarter or an
    eighth of q's heads with as many of k's as that, at most."""
    common = math.gcd(shape.num_heads, shape.num_kv_heads)
    equal = {(block, block if shape.num_kv_heads else 1) for block in range(1, common + 1) if common % block == 0}
    most = [ceil_div(max(1, shape.num_heads), parts) for parts in (1, 2, 4, 8)]
    return sorted(equal | {(_divisor(shape.num_heads, m), _divisor(shape.num_kv_heads, m)) for m in most})


def _plan(shape: Shape, tokens: int, heads: int, kv_heads: int, whole: bool, by_head: bool = False) -> Plan:
    return Plan(
        block_tokens=tokens,
        block_heads=heads,
        block_kv_heads=kv_heads,
        pairs=_pairs(shape),
        whole=whole,
        wide_rows=halves_are_blocks(shape),
        overlap=shape.fresh and tokens > 1,
        by_head=by_head,
    )


def _transposed(shape: Shape) -> Plan | None:
    """All heads of a token, their lanes as rows: for fresh outputs of heads whose halves are not whole blocks."""
    lanes = ceil_div(shape.rotary_dim, LANES) * LANES
    narrow = shape.rotary_dim // 2 * shape.itemsize % buffer_ascend.BLOCK_BYTES
    whole = shape.head_size * shape.itemsize % buffer_ascend.BLOCK_BYTES == 0
    if not (
        shape.num_heads
        and shape.fresh
        and not shape.axes
        and shape.is_neox_style
        and narrow
        and whole
        and lanes <= shape.head_size
    ):
        return None
    return replace(_plan(shape, 1, max(1, shape.num_heads), max(1, shape.num_kv_heads), whole=True), lanes=lanes)


def _spreads(shape: Shape, device: Device) -> Iterable[Plan]:
    """Single tokens in blocks of heads; the smallest blocks at least."""
    for most in (1, *(size // cost_ascend.moved_bytes(shape) for size in SPREAD_BYTES)):
        heads, kv_heads = _divisor(shape.num_heads, most), _divisor(shape.num_kv_heads, most)
        for whole in _ways(shape):
            plan = replace(_plan(shape, 1, heads, kv_heads, whole), units=units_of(shape, heads, kv_heads))
            if buffer_ascend.fits(plan, shape, device) or most == 1:
                yield plan


def _pairs(shape: Shape) -> str:
    """How the kernel takes pairs of lanes apart: see ``rope.py``."""
    return "halves" if shape.is_neox_style else shape.words or "slices"


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
