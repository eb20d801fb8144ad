"""Chooses the plan for a number of tokens, among those of an operator's kernels: a pure function of shape and device.

A shape has at most three plans, so that a signature compiles at most three kernels. They are the cheapest where
something models what kernels cost (``ascend.py``); else there is a plain choice, by the size of tiles.
"""

import functools
import itertools
import math
from typing import Any

from rope_patch.kernels.plan import Device, Plan

Kernels = tuple[type[Plan], ...]
Steps = tuple[tuple[Plan, float], ...]  # each plan with the largest number of tokens that it is for

# Numbers of tokens that the three plans are for: decoding of a few sequences; of more, and what is left over of
# prefills; prefills as vLLM cuts them.
FEW_TOKENS, SOME_TOKENS, MANY_TOKENS = (1, 2, 4), (16, 32, 64, 128, 256, 512), (2048, 8192)
NEVER = 1e12  # cycles


def make_plan(kernels: Kernels, shape: Any, num_tokens: int, device: Device) -> Plan:
    """The plan for ``num_tokens`` tokens."""
    return next(plan for plan, most in _steps(kernels, shape, device) if num_tokens <= most)


def plans_of(kernels: Kernels, shape: Any, device: Device) -> tuple[Plan, ...]:
    """All plans that ``make_plan`` chooses from, in the order in which growing numbers of tokens first meet them."""
    return tuple(dict.fromkeys(plan for plan, _ in _steps(kernels, shape, device)))


@functools.lru_cache(maxsize=1024)
def _steps(kernels: Kernels, shape: Any, device: Device) -> Steps:
    """Cached, since every new number of tokens needs it."""
    plans = [
        plan
        for kernel in kernels
        if kernel.powers_of_two == device.powers_of_two
        for plan in kernel.candidates(shape, device)
    ]
    parts = [plan for plan in plans if plan.splits_tokens]
    tiles = [plan for plan in plans if not plan.splits_tokens]
    one_of_each = {type(plan): plan for plan in plans}.values()
    if any(plan.cycles(shape, device, plan.least_tokens) is None for plan in one_of_each):
        return _plain(tiles, device)
    return _cheapest(parts, tiles, shape, device)


def _plain(tiles: list[Plan], device: Device) -> Steps:
    """The smallest tile if larger ones would leave the device idle, else the largest that fits."""
    smallest, largest = tiles[0], tiles[-1]
    programs, _ = largest.grid(largest.block_tokens, device)
    idle = device.busy_programs // programs * largest.block_tokens
    return (smallest, max(idle, largest.least_tokens - 1)), (largest, math.inf)


def _cheapest(parts: list[Plan], tiles: list[Plan], shape: Any, device: Device) -> Steps:
    """Parts of single tokens (if there are such plans), small tiles, large tiles."""
    full = _best(tiles, [], MANY_TOKENS, shape, device)
    few = [_best(parts, [], FEW_TOKENS, shape, device)] if parts else []
    small = [*few, *(tile for tile in tiles if tile.block_tokens <= full.block_tokens)]
    return _ranges([*few, _best(small, [*few, full], SOME_TOKENS, shape, device), full], shape, device)


def _best(plans: list[Plan], others: list[Plan], tokens: tuple[int, ...], shape: Any, device: Device) -> Plan:
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


def _ranges(plans: list[Plan], shape: Any, device: Device) -> Steps:
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


def _cost(plan: Plan, shape: Any, device: Device, num_tokens: int) -> float:
    cost = plan.cycles(shape, device, num_tokens) if num_tokens >= plan.least_tokens else None
    return NEVER if cost is None else cost
