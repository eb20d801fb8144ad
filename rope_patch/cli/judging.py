"""Judges a rotation against fp64, lane by lane."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from rope_patch.cli.definition import Exact
from rope_patch.operators import reference
from rope_patch.operators.rotation import Rotation

NATIVE_ULP = (
    4  # the error that code other than the kernel may have, in units in the last place: it may round each product
)
AT_ONCE = 512  # tokens that are compared at once, since fp64 takes much memory on the host


class Found(NamedTuple):
    """What was found in some lanes."""

    wrong: int
    lanes: int
    max_ulp: float  # the largest error, in units in the last place of the rotated pair
    max_error: float  # the largest error of a wrong lane

    def and_(self, other: "Found") -> "Found":
        both = self.wrong + other.wrong, self.lanes + other.lanes
        return Found(*both, max(self.max_ulp, other.max_ulp), max(self.max_error, other.max_error))


NOTHING = Found(0, 0, 0.0, 0.0)


def judged(before: tuple[torch.Tensor, torch.Tensor], after: Any, exact: Exact, head_size: int, exactly: bool) -> Found:
    """Every lane of q and k. ``exactly``: no further from fp64 than one rounding explains; else ``NATIVE_ULP``."""
    total = NOTHING
    for number, (was, now) in enumerate(zip(before, after, strict=True)):
        for found in _compared(was, now, number, exact, head_size):
            ulps = ulp(found.exact, exact.rotary_dim, exact.is_neox_style, torch.finfo(was.dtype))
            bound = found.bound if exactly else NATIVE_ULP * ulps
            total = total.and_(found_in(found.error, bound, ulps))
    return total


def found_in(error: torch.Tensor, bound: torch.Tensor, ulps: torch.Tensor) -> Found:
    """What these errors say, where so much is allowed."""
    wrong = ~(error <= bound)  # NaN is wrong
    error = error.nan_to_num(float("inf"))
    furthest = float(error[wrong].max()) if wrong.any() else 0.0
    return Found(int(wrong.sum()), wrong.numel(), float((error / ulps).max()), furthest)


def _compared(
    was: torch.Tensor, now: torch.Tensor, number: int, exact: Exact, head_size: int
) -> Iterator[reference.Compared]:
    for begin in range(0, len(was), AT_ONCE):
        tokens = slice(begin, begin + AT_ONCE)
        heads = was.shape[-1] // head_size
        before, after = (tensor[tokens].cpu().reshape(-1, heads, head_size) for tensor in (was, now))
        if exact.rotated is not None:
            right = exact.rotated[number][tokens].reshape(before.shape)
            yield reference.Compared(right, (after.double() - right).abs(), torch.zeros_like(right))
        else:
            assert exact.rows is not None
            rotation = Rotation(head_size, exact.rotary_dim, exact.is_neox_style)
            yield reference.compared(before, after, exact.rows[tokens], rotation)


def ulp(exact: torch.Tensor, rotary_dim: int, is_neox_style: bool, info: Any) -> torch.Tensor:
    """A unit in the last place for each lane: eps * 2**e for a size in [2**e, 2**(e+1)), at least that of subnormals.

    The size of a rotated lane is the length of its pair, which a rotation does not change. The lane's own value would
    be misleading: where two products nearly cancel, the small difference keeps the error of the products.
    """
    turned = exact[..., :rotary_dim]
    if is_neox_style:
        length = torch.hypot(*turned.chunk(2, dim=-1)).repeat(1, 1, 2)
    else:
        length = torch.hypot(turned[..., 0::2], turned[..., 1::2]).repeat_interleave(2, dim=-1)
    size = torch.cat((length, exact[..., rotary_dim:].abs()), dim=-1)
    _, exponent = torch.frexp(size.clamp_min(info.smallest_normal))
    return info.eps * torch.exp2(exponent.double() - 1)
