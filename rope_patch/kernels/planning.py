"""Chooses the plan for a number of tokens: a pure function of shape and device facts.

A shape has at most three plans, so that a signature compiles at most three kernels.
"""

import functools

from rope_patch.kernels import plan_ascend, plan_padded
from rope_patch.kernels.plan import Device, Plan, Shape


def make_plan(shape: Shape, num_tokens: int, device: Device) -> Plan:
    """The plan for ``num_tokens`` tokens."""
    return next(plan for plan, most in _steps(shape, device) if num_tokens <= most)


def plans_of(shape: Shape, device: Device) -> tuple[Plan, ...]:
    """All plans that ``make_plan`` chooses from, in the order in which growing numbers of tokens first meet them."""
    return tuple(dict.fromkeys(plan for plan, _ in _steps(shape, device)))


@functools.lru_cache(maxsize=1024)
def _steps(shape: Shape, device: Device) -> tuple[tuple[Plan, float], ...]:
    """Each plan with the largest number of tokens that it is for. Cached, since every new number of tokens needs it."""
    return (plan_padded if device.powers_of_two else plan_ascend).steps(shape, device)
