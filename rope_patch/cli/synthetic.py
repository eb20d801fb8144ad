"""The tensors of the calls that ``verify`` and ``bench`` make: positions, q and k as vLLM has them, and a table."""

from typing import Any

import torch

from rope_patch.cli.rope_config import RopeConfig
from rope_patch.operators import arguments


def axes_of(rope: RopeConfig) -> str:
    """A ``Rotation``'s ``axes`` for this shape; empty if a token has one position."""
    sections = rope.sections
    return arguments.axes_of(sections.pairs, sections.order, rope.rotary_dim) if sections else ""


def positions_of(rope: RopeConfig, num_tokens: int, rows: int, generator: Any) -> torch.Tensor:
    """Random rows of the cache: ``[num_tokens]``, or ``[3, num_tokens]``, where equal ones would prove nothing."""
    several = (rope.positions, num_tokens) if rope.positions > 1 else (num_tokens,)
    found = torch.randint(0, rows, several, generator=generator)
    found.view(-1)[-1] = rows - 1
    return found


def inputs(
    rope: RopeConfig, num_tokens: int, strided: bool, generator: Any, dtype: Any, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k as vLLM has them: views of qkv, or contiguous tensors, as in models that normalise q and k."""
    width, kv_width = rope.num_heads * rope.head_size, rope.num_kv_heads * rope.head_size
    qkv = torch.randn(num_tokens, width + 2 * kv_width, generator=generator).to(device, dtype)
    query, key = qkv[:, :width], qkv[:, width : width + kv_width]
    return (query, key) if strided else (query.clone(), key.clone())


def copied(tensors: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies with the same strides: a rotation may be in place."""
    query, key = tensors
    if query.is_contiguous() and key.is_contiguous():
        return query.clone(), key.clone()
    rows = torch.empty(len(query), query.stride(0), dtype=query.dtype, device=query.device)
    views = rows[:, : query.shape[1]], rows[:, query.shape[1] : query.shape[1] + key.shape[1]]
    for view, tensor in zip(views, tensors, strict=True):
        view.copy_(tensor)
    return views


def unscaled_table(rope: RopeConfig, rows: int) -> torch.Tensor:
    """Cosines and sines of unscaled angles. Scaling changes only the angles, and the kernel works alike for all."""
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float64) / rope.rotary_dim
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * rope.theta**-exponents
    return torch.cat((angles.cos(), angles.sin()), -1).float()
