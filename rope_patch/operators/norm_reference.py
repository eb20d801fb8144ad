"""What norm and rotation compute, in plain PyTorch, and how far a correct result may lie from it."""

import torch
from torch import Tensor

from rope_patch.operators.reference import rounded_once

UNIT = 2.0**-24  # of fp32: the part of a result that one operation may lose


def expected(heads: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each head normed and rotated in fp64, and how far a correct result (fp32, rounded once) may lie from it.

    Args:
        heads: ``[num_tokens, num_heads, head_size]``, of the dtype to which a result is rounded.
        weight, bias: ``[head_size]``; of the RMS norm (Zhang and Sennrich 2019).
        rows: ``[num_tokens, rotary_dim]``, cosines, then sines: of the rotation of the first lanes, NeoX style.

    The bound is half a unit in the last place of the output, plus what fp32 loses. A mean of n squares loses at most n
    units of itself, whatever the order of the sum, and its root half of that. Between lanes and result lie, for a term
    of the sum, about eight operations more; a root and a division may lose two units each on some devices, and weights
    may be multiplied into cosines first. So a term loses at most n / 2 + 16 units of its size.
    """
    x, scale = heads.double(), weight.double()
    x = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * scale
    shift = torch.zeros_like(scale) if bias is None else bias.double()
    n, size = x + shift, x.abs() + shift.abs()
    half = rows.shape[-1] // 2
    cos, sin = rows.double()[:, None].chunk(2, dim=-1)
    parts = []
    for first, second, sign in ((0, half, -1), (half, 0, 1)):
        here, there = slice(first, first + half), slice(second, second + half)
        exact = n[..., here] * cos + sign * n[..., there] * sin
        parts.append((exact, size[..., here] * cos.abs() + size[..., there] * sin.abs()))
    parts.append((n[..., 2 * half :], size[..., 2 * half :]))
    exact, sizes = (torch.cat(found, -1) for found in zip(*parts, strict=True))
    return exact, rounded_once(exact, sizes.mul_((heads.shape[-1] / 2 + 16) * UNIT), heads.dtype)
