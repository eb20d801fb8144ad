"""What the rotation computes, in plain PyTorch: to compare with, and to serve in its place in graphs."""

from typing import NamedTuple

import torch
from torch import Tensor

from rope_patch.kernels.shape import Rotation


def rotate(
    positions: Tensor,
    heads: Tensor,
    cos_sin_cache: Tensor,
    rotation: Rotation,
    compute_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Rotate the first ``rotary_dim`` lanes of every head; the others are copied.

    Args:
        positions: ``[num_tokens]``, integers; a value outside the cache is clamped to its rows (by the kernels: the
            lowest 32 bits of it). With axes ``[3, num_tokens]``.
        heads: ``[num_tokens, num_heads, head_size]``, any strides.
        cos_sin_cache: ``[max_position, rotary_dim]``; a row holds cosines, then sines.
        compute_dtype: of the arithmetic.

    Returns a new contiguous tensor of ``heads``' shape: fp64 if computed in fp64, else rounded once to ``heads.dtype``.

    The formula is RoFormer's (Su et al. 2021, equation 34), with lanes paired as (i, i + rotary_dim / 2) for NeoX
    and as (2 i, 2 i + 1) for GPT-J.
    """
    cos, sin = _halves(rows_of(positions, cos_sin_cache, rotation.axes), compute_dtype)
    x1, x2 = _parted(heads[..., : rotation.rotary_dim].to(compute_dtype), rotation.is_neox_style)
    turned = _joined(x1 * cos - x2 * sin, x2 * cos + x1 * sin, rotation.is_neox_style)
    dtype = torch.float64 if compute_dtype == torch.float64 else heads.dtype
    return torch.cat((turned.to(dtype), heads[..., rotation.rotary_dim :].to(dtype)), dim=-1)


def expected(heads: Tensor, rows: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
    """The rotation in fp64 by each token's row of the cache, and how far a correct result (fp32, rounded once) may lie
    from it.

    That is half a unit in the last place of the output, plus 4 * 2**-24 * (|x1 cos| + |x2 sin|) for the fp32
    arithmetic: two products and a sum each lose at most 2**-24 of that, fused or not. Lanes that are not rotated must
    be equal.
    """
    cos, sin = _halves(rows, torch.float64)
    x1, x2 = _parted(heads[..., : rotation.rotary_dim].double(), rotation.is_neox_style)
    x1_cos, x2_sin, x2_cos, x1_sin = x1 * cos, x2 * sin, x2 * cos, x1 * sin
    exact = _joined(x1_cos - x2_sin, x2_cos + x1_sin, rotation.is_neox_style)
    arithmetic = _joined(x1_cos.abs() + x2_sin.abs(), x2_cos.abs() + x1_sin.abs(), rotation.is_neox_style)
    arithmetic.mul_(4 * 2.0**-24)
    bound = rounded_once(exact, arithmetic, heads.dtype)
    passing = heads[..., rotation.rotary_dim :].double()
    return torch.cat((exact, passing), -1), torch.cat((bound, torch.zeros_like(passing)), -1)


def rounded_once(exact: Tensor, arithmetic: Tensor, dtype: torch.dtype) -> Tensor:
    """``arithmetic``, which is changed, and half a unit in the last place of what lies so far from ``exact``."""
    info = torch.finfo(dtype)
    # A unit in the last place of |y| in [2**e, 2**(e+1)) is eps * 2**e. Below the smallest normal number it is
    # constant.
    _, exponent = torch.frexp((exact.abs() + arithmetic).clamp_min_(info.smallest_normal))
    return arithmetic.add_(torch.exp2(exponent.double() - 1), alpha=info.eps / 2)


class Compared(NamedTuple):
    """A rotation compared with fp64. Each tensor is ``[num_tokens, num_heads, head_size]``."""

    exact: Tensor
    error: Tensor  # NaN where the result is NaN
    bound: Tensor  # the largest error that rounding explains; 0 for lanes that are not rotated

    def wrong(self, bound: Tensor | None = None) -> int:
        """How many lanes have an error larger than ``bound`` (default: what rounding explains). NaN counts as wrong."""
        return int((~(self.error <= (self.bound if bound is None else bound))).sum())


def compared(before: Tensor, after: Tensor, rows: Tensor, rotation: Rotation) -> Compared:
    """Compare ``after`` with the rotation of ``before``, on the host. ``rows`` are the tokens' rows of the cache."""
    heads = before.cpu().reshape(len(rows), -1, before.shape[-1])
    exact, bound = expected(heads, rows.cpu(), rotation)
    return Compared(exact, (after.cpu().reshape(heads.shape).double() - exact).abs(), bound)


def rows_of(positions: Tensor, cos_sin_cache: Tensor, axes: str = "") -> Tensor:
    """Each token's row of the cache, ``[num_tokens, rotary_dim]``; with axes each lane is of its axis' row."""
    rows = cos_sin_cache[positions.long().clamp(0, cos_sin_cache.shape[0] - 1)]
    if not axes:
        return rows
    return torch.stack([rows["thw".index(axis), :, lane] for lane, axis in enumerate(2 * axes)], dim=-1)


def _halves(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Each token's cosines and sines, ``[num_tokens, 1, rotary_dim / 2]``."""
    cos, sin = rows.to(dtype)[:, None].chunk(2, dim=-1)
    return cos, sin


def _parted(turning: Tensor, is_neox_style: bool) -> tuple[Tensor, Tensor]:
    """The first and the second lanes of all pairs."""
    if not is_neox_style:
        return turning[..., 0::2], turning[..., 1::2]
    x1, x2 = turning.chunk(2, dim=-1)
    return x1, x2


def _joined(y1: Tensor, y2: Tensor, is_neox_style: bool) -> Tensor:
    return torch.cat((y1, y2), -1) if is_neox_style else torch.stack((y1, y2), -1).flatten(-2)
