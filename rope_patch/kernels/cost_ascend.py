"""What a tile costs on Ascend, roughly: a formula for what the clock of ``scripts/model_ascend`` says of programs.

Only for choosing between tiles. The clock's costs and their sources are in its ``costs.py``.
"""

import functools
import math

from rope_patch.kernels.plan import Device, Plan, Shape, ceil_div

LINE = 512  # bytes: transfers are cut at these
LATENCY = 307 + 153  # cycles until a load's data are there, and a store's
BETWEEN = 22  # cycles from one vector step to another that needs its result
TILE = 2200  # cycles between tiles: positions, then rows, then heads are waited for
ROW = 23  # cycles for each row that is gathered
INSTRUCTION = 23  # of the scalar unit, for a vector instruction and its arguments
HBM = 890  # bytes a cycle, all cores together


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
    """Of the whole launch, but for its start."""
    tokens, heads = plan.block_tokens, plan.block_heads
    programs, _ = plan.grid(num_tokens, device)
    tiles = ceil_div(ceil_div(num_tokens, programs), tokens)
    blocks = tiles * (shape.num_heads + shape.num_kv_heads) // heads
    size = shape.head_size * shape.itemsize
    bursts, times = parts(shape), heads
    if plan.whole:  # beside each other, a token's heads are one
        moved = moved_bytes(shape)
        bursts, times = ([moved], heads) if moved < size else ([heads * size], 1)
    traffic = sum(_traffic(burst, size) for burst in bursts) * times * tokens
    count = 1.5 * len(bursts) * times * tokens
    load = 15 + count + traffic / 46
    store = 12 + count + traffic / 64
    vector = _vector(plan, shape)
    # Whole heads are stored from where they were loaded to: with two buffers that much must not take longer.
    block = max(vector, (load + vector + store + LATENCY) / 2) if plan.whole else max(vector, load, store)
    shared = 2 * heads * (tokens + BETWEEN) if tokens > 1 and heads > 1 else 0
    work = tiles * (TILE + (ROW + ceil_div(shape.rotary_dim * 4, 256)) * tokens + shared) + blocks * block
    return math.hypot(work, 2 * traffic * blocks * programs / HBM)


def _vector(plan: Plan, shape: Shape) -> float:
    rows, half = plan.block_tokens * plan.block_heads, shape.rotary_dim // 2
    apart = rows * ceil_div(half * 4, 256)  # repeats of a step that goes head by head
    repeats = ceil_div(rows * half * 4, 256)
    steps = 2 * apart + 8 * repeats + 2 * (apart if plan.whole else repeats) + 7 * BETWEEN
    if plan.pairs == "words":
        steps += 8 * apart
    elif plan.pairs == "slices":
        steps += 40 * apart
    if plan.whole:
        steps += rows * ceil_div(half * shape.itemsize, 256) + BETWEEN
    return max(steps, 16 * INSTRUCTION)


@functools.lru_cache(maxsize=1 << 14)
def _traffic(burst: int, size: int) -> float:
    """Bytes that memory moves for a burst, over the places in a line where heads of ``size`` bytes begin."""
    starts = [n * size % LINE for n in range(16)]
    return sum(_asked(start, burst) for start in starts) / len(starts)


def _asked(start: int, length: int) -> int:
    end = start + length
    if length > LINE:
        return (ceil_div(end, LINE) - start // LINE) * LINE
    pieces = [min(end, LINE) - start, max(0, end - LINE)]
    return sum(next(part for part in (128, 256, 512) if piece <= part) for piece in pieces if piece)
