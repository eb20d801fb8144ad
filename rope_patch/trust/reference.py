"""Rotary position embedding in plain PyTorch, for comparison with the kernel, and to serve in its place in graphs."""

from typing import NamedTuple

import torch


def rotate(
    positions: torch.Tensor,
    heads: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    rotary_dim: int,
    is_neox_style: bool,
    compute_dtype: torch.dtype = torch.float32,
    axes: str = "",
) -> torch.Tensor:
    """Rotate the first ``rotary_dim`` lanes of every head; the others are copied.

    Args:
        positions: ``[num_tokens]``, integers; a value outside the cache is clamped to its rows (by the kernels: the
            lowest 32 bits of it). With axes ``[3, num_tokens]``.
        heads: ``[num_tokens, num_heads, head_size]``, any strides.
        cos_sin_cache: ``[max_position, rotary_dim]``; a row holds cosines, then sines.
        compute_dtype: of the arithmetic.
        axes: a letter for each pair of lanes: t, h or w, for the first, second or third of a token's positions.

    Returns a new contiguous tensor of ``heads``' shape: fp64 if computed in fp64, else rounded once to ``heads.dtype``.

    The formula is RoFormer's (Su et al. 2021, equation 34), with lanes paired as (i, i + rotary_dim / 2) for NeoX
    and as (2 i, 2 i + 1) for GPT-J.
    """
    cos, sin = _halves(rows_of(positions, cos_sin_cache, axes), compute_dtype)
    x1, x2 = _parted(heads[..., :rotary_dim].to(compute_dtype), is_neox_style)
    turned = _joined(x1 * cos - x2 * sin, x2 * cos + x1 * sin, is_neox_style)
    dtype = torch.float64 if compute_dtype == torch.float64 else heads.dtype
    return torch.cat((turned.to(dtype), heads[..., rotary_dim:].to(dtype)), dim=-1)


class Compared(NamedTuple):
    """A rotation compared with fp64. Each tensor is ``[num_tokens, num_heads, head_size]``."""

    exact: torch.Tensor
    error: torch.Tensor  # NaN where the result is NaN
    bound: torch.Tensor  # the largest error that rounding explains; 0 for lanes that are not rotated

    def wrong(self, bound: torch.Tensor | None = None) -> int:
        """How many lanes have an error larger than ``bound`` (default: what rounding explains). NaN counts as wrong."""
        return int((~(self.error <= (self.bound if bound is None else bound))).sum())


def compared(
    before: torch.Tensor, after: torch.Tensor, rows: torch.Tensor, rotary_dim: int, is_neox_style: bool
) -> Compared:
    """Compare ``after`` with the rotation of ``before``, on the host. ``rows`` are the tokens' rows of the cache."""
    heads = before.cpu().reshape(len(rows), -1, before.shape[-1])
    tokens = torch.arange(len(rows), device="cpu")
    exact, bound = expected(tokens, heads, rows.cpu(), rotary_dim, is_neox_style)
    return Compared(exact, (after.cpu().reshape(heads.shape).double() - exact).abs(), bound)


def expected(
    positions: torch.Tensor, heads: torch.Tensor, cos_sin_cache: torch.Tensor, rotary_dim: int, is_neox_style: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotation in fp64, and how far each element of a correct result (fp32, rounded once) may lie from it.

    That is half a unit in the last place of the output, plus 4 * 2**-24 * (|x1 cos| + |x2 sin|) for the fp32
    arithmetic: two products and a sum each lose at most 2**-24 of that, fused or not. Lanes that are not rotated must
    be equal.
    """
    cos, sin = _halves(rows_of(positions, cos_sin_cache), torch.float64)
    x1, x2 = _parted(heads[..., :rotary_dim].double(), is_neox_style)
    x1_cos, x2_sin, x2_cos, x1_sin = x1 * cos, x2 * sin, x2 * cos, x1 * sin
    exact = _joined(x1_cos - x2_sin, x2_cos + x1_sin, is_neox_style)
    arithmetic = _joined(x1_cos.abs() + x2_sin.abs(), x2_cos.abs() + x1_sin.abs(), is_neox_style).mul_(4 * 2.0**-24)
    info = torch.finfo(heads.dtype)
    # A unit in the last place of |y| in [2**e, 2**(e+1)) is eps * 2**e. Below the smallest normal number it is
    # constant.
    _, exponent = torch.frexp((exact.abs() + arithmetic).clamp_min_(info.smallest_normal))
    bound = arithmetic.add_(torch.exp2(exponent.double() - 1), alpha=info.eps / 2)
    passing = heads[..., rotary_dim:].double()
    return torch.cat((exact, passing), -1), torch.cat((bound, torch.zeros_like(passing)), -1)


def rows_of(positions: torch.Tensor, cos_sin_cache: torch.Tensor, axes: str = "") -> torch.Tensor:
    """Each token's row of the cache, ``[num_tokens, rotary_dim]``; with axes each lane is of its axis' row."""
    rows = cos_sin_cache[positions.long().clamp(0, cos_sin_cache.shape[0] - 1)]
    if not axes:
        return rows
    return torch.stack([rows["thw".index(axis), :, lane] for lane, axis in enumerate(2 * axes)], dim=-1)


def _halves(rows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's cosines and sines, ``[num_tokens, 1, rotary_dim / 2]``."""
    cos, sin = rows.to(dtype)[:, None].chunk(2, dim=-1)
    return cos, sin


def _parted(turning: torch.Tensor, is_neox_style: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second lanes of all pairs."""
    if not is_neox_style:
        return turning[..., 0::2], turning[..., 1::2]
    x1, x2 = turning.chunk(2, dim=-1)
    return x1, x2


def _joined(y1: torch.Tensor, y2: torch.Tensor, is_neox_style: bool) -> torch.Tensor:
    return torch.cat((y1, y2), -1) if is_neox_style else torch.stack((y1, y2), -1).flatten(-2)
