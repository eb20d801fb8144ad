"""Rotary position embedding in plain PyTorch: the yardstick, and what serves when the kernel may not."""

import torch


def rotate(
    positions: torch.Tensor,
    heads: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    rotary_dim: int,
    is_neox_style: bool,
    compute_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Rotate the first ``rotary_dim`` lanes of every head; the rest passes through.

    Args:
        positions: ``[num_tokens]``, integers; a value outside the cache is clamped to its rows.
        heads: ``[num_tokens, num_heads, head_size]``, any strides.
        cos_sin_cache: ``[max_position, rotary_dim]``, the cosines of a row, then its sines.
        compute_dtype: of the arithmetic; the result is rounded once, to ``heads.dtype`` (fp64 stays fp64).

    Returns a new contiguous tensor of ``heads``' shape: fp64 if computed in fp64, else of its dtype.

    The formula is RoFormer's (Su et al. 2021, equation 34), with lanes paired as (i, i + rotary_dim / 2) for NeoX
    and as (2 i, 2 i + 1) for GPT-J.
    """
    row = cos_sin_cache[positions.long().clamp(0, cos_sin_cache.shape[0] - 1)].to(compute_dtype)
    cos, sin = row[:, None].chunk(2, dim=-1)
    turning = heads[..., :rotary_dim].to(compute_dtype)
    if is_neox_style:
        x1, x2 = turning.chunk(2, dim=-1)
    else:
        x1, x2 = turning[..., 0::2], turning[..., 1::2]
    y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
    turned = torch.cat((y1, y2), -1) if is_neox_style else torch.stack((y1, y2), -1).flatten(-2)
    dtype = torch.float64 if compute_dtype == torch.float64 else heads.dtype
    return torch.cat((turned.to(dtype), heads[..., rotary_dim:].to(dtype)), dim=-1)


def error_bound(
    positions: torch.Tensor, heads: torch.Tensor, cos_sin_cache: torch.Tensor, rotary_dim: int, is_neox_style: bool
) -> torch.Tensor:
    """How far each element of a correct fp32 rotation, rounded once, may lie from the fp64 one.

    Half a unit in the last place of the output, and 4 * 2**-24 * (|x1 cos| + |x2 sin|) for the fp32 arithmetic: two
    products and a sum each lose at most 2**-24 of that, fused or not. Pass-through lanes have no error: 0.
    """
    exact = rotate(positions, heads, cos_sin_cache, rotary_dim, is_neox_style, torch.float64)
    # |x1 cos| + |x2 sin| is the rotation of |x| whose cross term adds up: take the larger of both signs of sin.
    size, cache = heads.double().abs(), cos_sin_cache.double().abs()
    half = rotary_dim // 2
    flipped = torch.cat((cache[:, :half], -cache[:, half:]), -1)
    terms = torch.maximum(
        rotate(positions, size, cache, rotary_dim, is_neox_style, torch.float64),
        rotate(positions, size, flipped, rotary_dim, is_neox_style, torch.float64),
    )
    info = torch.finfo(heads.dtype)
    # A unit in the last place at |y| in [2**e, 2**(e+1)) is eps * 2**e; below the smallest normal it stays there.
    _, exponent = torch.frexp((exact.abs() + 4 * 2.0**-24 * terms).clamp_min(info.smallest_normal))
    ulp = info.eps * torch.exp2(exponent.double() - 1)
    bound = ulp / 2 + 4 * 2.0**-24 * terms
    bound[..., rotary_dim:] = 0
    return bound
