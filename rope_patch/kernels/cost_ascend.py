"""What a tile costs on Ascend, roughly: a formula for what the clock of ``scripts/model_ascend`` says of programs.

Only for choosing between tiles. The clock's costs and their sources are in its ``costs.py``; the numbers here were
fitted to its times of some two thousand plans. ``tests/figures/test_clock.py`` says how far they are from it now.
"""

import functools
import math

from rope_patch.kernels import buffer_ascend
from rope_patch.kernels.plan import Device, Plan, Shape, ceil_div

LINE = 512  # bytes: transfers are cut at these
HBM = 890  # bytes a cycle, all cores together
PROGRAM = 37  # to start one program more: the clock's ``start_us_per_core``
FIRST = 800  # until the first tile's positions, cosines and heads are there, and its last results away
TILE, TILE_OF_TOKENS = 60, 320  # between tiles of one token, and of several: their positions are waited for
ROW = 5  # for each cosine row that is loaded by itself
# More for three positions a token: working out shares, once; for each tile, and for each token beside its rows.
SHARES, TILE_OF_AXES, SELECT = 700, 450, 35
INSTRUCTION = 25  # of the scalar unit, for a vector instruction and its arguments
INSTRUCTIONS = 13.5  # for a block of heads, its transfers, flags and barriers counted as so many more
PARTS = 190  # more for a block whose heads are moved in parts
BETWEEN = 22  # cycles from one vector step to another that needs its result
# For a token whose lanes become rows: all but the transposing, and that for every 16 lanes, there and back.
TRANSPOSED, TRANSPOSED_LANES = 480, 330
SHARING = 1.1  # times as long where buffers have to share space
TURN = 210  # between a load, the work on it and its store, where they share a buffer


def parts(shape: Shape) -> list[int]:
    """Bytes of the parts of a head that are moved: each half of the rotary part, or all of it; and of fresh outputs
    what passes through."""
    half = shape.rotary_dim // 2 * shape.itemsize
    rest = (shape.head_size - shape.rotary_dim) * shape.itemsize if shape.fresh else 0
    return ([half, half] if shape.is_neox_style else [2 * half]) + ([rest] if rest else [])


def moved_bytes(shape: Shape) -> int:
    """What is moved of one head, each way."""
    return sum(parts(shape))


def cycles(plan: Plan, shape: Shape, device: Device, num_tokens: int) -> float:
    """Of the whole launch, from the start of its first program on."""
    programs, each = plan.grid(num_tokens, device)
    tiles = each if plan.units else ceil_div(ceil_div(num_tokens, programs), plan.block_tokens)
    work, traffic = _tile(plan, shape, device)
    first = FIRST + (SHARES if shape.axes else 0)
    return PROGRAM * programs + math.hypot(first + tiles * work, 2 * traffic * tiles * programs / HBM)


@functools.lru_cache(maxsize=1 << 12)
def _tile(plan: Plan, shape: Shape, device: Device) -> tuple[float, float]:
    """Cycles for a tile, or on average for an item, and the bytes that memory moves for it each way."""
    if plan.lanes:
        size = shape.head_size * shape.itemsize
        traffic = sum(
            memory_traffic(heads * size, heads * size) for heads in (shape.num_heads, shape.num_kv_heads) if heads
        )
        return TRANSPOSED + TRANSPOSED_LANES * plan.lanes / 16, traffic
    kinds = [(shape.num_heads, plan.block_heads)]
    if shape.num_kv_heads:
        kinds.append((shape.num_kv_heads, plan.block_kv_heads))
    blocks = [(heads / block / (plan.units or 1), _block(plan, shape, block)) for heads, block in kinds]
    if _in_turns(plan):  # each pipe has its own sum
        work = max(sum(number * block[pipe] for number, block in blocks) for pipe in range(PIPES))
    else:
        work = sum(number * max(block[:PIPES]) for number, block in blocks)
    if plan.whole and buffer_ascend.shares(plan, shape, device):  # what is moved then waits for what is worked on
        work *= SHARING
    work += TILE if plan.block_tokens == 1 else TILE_OF_TOKENS
    rows = ROW + ceil_div(shape.rotary_dim * 4, 256)
    work += rows * plan.block_tokens
    if shape.axes:
        work += TILE_OF_AXES + (2 * rows + SELECT) * plan.block_tokens
    if plan.by_head:
        work += plan.block_heads * (plan.block_tokens + BETWEEN)
    return work, sum(number * block[PIPES] for number, block in blocks)


def _in_turns(plan: Plan) -> bool:
    """Whether the next block's instructions are issued while this one's steps are at work, and fill their waits."""
    return plan.block_tokens == 1 and not plan.units and not plan.in_words


PIPES = 5  # of what ``_block`` returns, the cycles


def _block(plan: Plan, shape: Shape, heads: int) -> tuple[float, ...]:
    """Of a block of so many heads of a tile's tokens: cycles of the scalar unit, of vector steps, of the load, of the
    store, and of all these in one of two buffers; then the bytes that memory moves each way."""
    size = shape.head_size * shape.itemsize
    bursts, times = parts(shape), heads
    if plan.whole:  # beside each other, a token's heads are one
        moved = moved_bytes(shape)
        bursts, times = ([moved], heads) if moved < size else ([heads * size], 1)
    count = len(bursts) * times * plan.block_tokens
    traffic = sum(memory_traffic(burst, size) for burst in bursts) * times * plan.block_tokens
    load = 15 * len(bursts) + 1.5 * count + traffic / 46
    store = 12 * len(bursts) + 1.5 * count + traffic / 64
    # Products with cosines and sines that are not there for each head take an instruction for each token.
    again = 4 * (plan.block_tokens - 1) if heads > 1 and not plan.by_head else 0
    instructions = INSTRUCTIONS + again + ((10 if plan.block_tokens == 1 else 6) if plan.in_words else 0)
    issue = INSTRUCTION * instructions + (0 if plan.whole else PARTS)
    vector = _vector(plan, shape, plan.block_tokens * heads)
    # Whole heads are stored from where they were loaded to: with two buffers that much must not take longer.
    turn = (load + max(issue, vector) + store + TURN) / 2 if plan.whole else 0.0
    return issue, vector, load, store, turn, traffic


def _vector(plan: Plan, shape: Shape, rows: int) -> float:
    half = shape.rotary_dim // 2
    apart = rows * ceil_div(half * 4, 256)  # repeats of a step that goes head by head
    repeats = ceil_div(rows * half * 4, 256)
    waits = 1 if _in_turns(plan) else 7
    steps = 2 * apart + 8 * repeats + 2 * (apart if plan.whole else repeats) + waits * BETWEEN
    if plan.in_words:
        steps += 8 * apart
    elif plan.pairs == "slices":
        steps += 40 * apart
    if plan.whole:
        steps += rows * ceil_div(half * shape.itemsize, 256) + BETWEEN
    return steps


@functools.lru_cache(maxsize=1 << 14)
def memory_traffic(burst: int, size: int) -> float:
    """Bytes that memory moves for a burst, over the places in a line where heads of ``size`` bytes begin."""
    starts = [n * size % LINE for n in range(16)]
    return sum(_asked(start, burst) for start in starts) / len(starts)


def _asked(start: int, length: int) -> int:
    end = start + length
    if length > LINE:
        return (ceil_div(end, LINE) - start // LINE) * LINE
    pieces = [min(end, LINE) - start, max(0, end - LINE)]
    return sum(next(part for part in (128, 256, 512) if piece <= part) for piece in pieces if piece)
