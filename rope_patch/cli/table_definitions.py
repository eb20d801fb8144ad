"""The definitions by which tables of cosines and sines are judged: transformers', and those that it has not."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.table_kinds import Part


def defined(part: Part, rope: RopeConfig) -> tuple[torch.Tensor, float] | None:
    """A frequency for each pair of lanes, and the factor of all cosines and sines; None if this transformers has no
    such definition."""
    if part.kind in OURS:
        return OURS[part.kind](rope.theta, rope.rotary_dim, **part.parameters), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if part.kind not in ROPE_INIT_FUNCTIONS:
        return None
    scaling = {"rope_type": part.kind, "rope_theta": rope.theta, **part.parameters}
    trained = part.parameters.get("original_max_position_embeddings", rope.max_position)
    # For dynamic NTK this is the trained length; other definitions ask only how many times it is that.
    longest = trained if part.kind == "dynamic" else math.ceil(trained * part.parameters.get("factor", 1))
    config: Any = SimpleNamespace(
        rope_theta=rope.theta, rope_scaling=scaling, rope_parameters=scaling, head_dim=rope.rotary_dim,
        hidden_size=rope.rotary_dim, num_attention_heads=1, partial_rotary_factor=1.0,
        max_position_embeddings=longest, original_max_position_embeddings=trained,
        standardize_rope_params=lambda: None,
    )  # fmt: skip
    length = {} if part.length is None else {"seq_len": part.length}
    frequencies, factor = ROPE_INIT_FUNCTIONS[part.kind](config, torch.device("cpu"), **length)
    return frequencies.double(), float(factor)


def default(theta: float, rotary_dim: int) -> torch.Tensor:
    """Which transformers leaves to each model."""
    return theta ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)


def alpha(theta: float, rotary_dim: int, alpha: float) -> torch.Tensor:
    """Hunyuan's dynamic NTK: as for a sequence that is ``alpha`` times too long, whatever its length."""
    return default(theta * alpha ** (rotary_dim / (rotary_dim - 2)), rotary_dim)


def ntk(theta: float, rotary_dim: int, factor: float, mixed_b: float | None) -> torch.Tensor:
    """NTK with a fixed factor, or mixed: pair i is slower by exp(a * i**b), and the last one by ``factor``."""
    if mixed_b is None:
        return default(theta * factor, rotary_dim) / factor ** (2 / rotary_dim)
    pairs = rotary_dim // 2
    exponents = math.log(factor) / pairs**mixed_b * torch.arange(1, pairs + 1, dtype=torch.float64) ** mixed_b
    return default(theta, rotary_dim) / exponents.exp()


OURS: dict[str, Callable[..., torch.Tensor]] = {"default": default, "alpha": alpha, "ntk": ntk}
