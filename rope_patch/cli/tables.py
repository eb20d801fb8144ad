"""Judges a module's table of cosines and sines against transformers' definition, from the same parameters.

rope_patch rotates by whatever table is there, so a table that differs is no fault of a kernel; but the model then
rotates otherwise than it was trained.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch

from rope_patch.cli.rope_config import RopeConfig

ROWS = 256  # that are compared, spread over the table
# vLLM's name of an argument, and that of transformers; for each of vLLM's scalings that both define alike.
_YARN = {"scaling_factor": "factor", "max_position_embeddings": "original_max_position_embeddings"}
_YARN |= {name: name for name in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "attention_factor")}
_LLAMA3 = {"scaling_factor": "factor", "orig_max_position": "original_max_position_embeddings"}
_LLAMA3 |= {name: name for name in ("low_freq_factor", "high_freq_factor")}
NAMES = {"linear": {"scaling_factor": "factor"}, "llama3": _LLAMA3, "yarn": _YARN, "deepseek_yarn": _YARN}
KINDS = {"deepseek_yarn": "yarn"}
TRUNCATE = "vllm-ascend makes YaRN's table with truncate=False; set truncate to true in the model's rope parameters"
MROPE = "vLLM makes YaRN's table of a multimodal model for four times the trained length"


def differs(rope: RopeConfig, module: Any) -> str | None:
    """How the table differs from the definition, and a known reason; None if it does not, or if that is not known.

    Only of modules that are made as a model makes them, since only their parameters are known.
    """
    table = getattr(module, "cos_sin_cache", None)
    if rope.made is None or table is None or table.shape[-1] != rope.rotary_dim:
        return None
    arguments = rope.made.arguments
    kind = "yarn" if rope.scaling == "default" and arguments.get("scaling_factor") else rope.scaling
    if kind != "default" and kind not in NAMES:
        return None
    parameters = {NAMES[kind][name]: value for name, value in arguments.items() if name in NAMES.get(kind, ())}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    frequencies, factor = defined(KINDS.get(kind, kind), rope, parameters)
    share = share_of_wrong(table, frequencies, factor)
    if not share:
        return None
    said = f"{share:.0%} of its table's values are not those of transformers' {KINDS.get(kind, kind)}"
    if "yarn" in kind and _is(table, rope, kind, {**parameters, "truncate": False}):
        return f"{said}: {TRUNCATE}"
    longer = {**parameters, "original_max_position_embeddings": 4 * arguments["max_position_embeddings"]}
    if "yarn" in kind and _is(table, rope, kind, longer):
        return f"{said}: {MROPE}"
    return said


def _is(table: torch.Tensor, rope: RopeConfig, kind: str, parameters: dict[str, Any]) -> bool:
    return not share_of_wrong(table, *defined(KINDS.get(kind, kind), rope, parameters))


def defined(kind: str, rope: RopeConfig, parameters: dict[str, Any]) -> tuple[torch.Tensor, float]:
    """Transformers' frequencies, and the factor of all cosines and sines."""
    if kind == "default":  # which transformers leaves to each model
        return rope.theta ** -(torch.arange(0, rope.rotary_dim, 2, dtype=torch.float64) / rope.rotary_dim), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": kind, "rope_theta": rope.theta, **parameters}
    length = parameters.get("original_max_position_embeddings", rope.max_position)
    config: Any = SimpleNamespace(
        rope_theta=rope.theta, rope_scaling=scaling, rope_parameters=scaling, head_dim=rope.rotary_dim,
        hidden_size=rope.rotary_dim, num_attention_heads=1, partial_rotary_factor=1.0,
        max_position_embeddings=math.ceil(length * parameters.get("factor", 1)), standardize_rope_params=lambda: None,
    )  # fmt: skip
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies.double(), float(factor)


def share_of_wrong(table: torch.Tensor, frequencies: torch.Tensor, factor: float) -> float:
    """Which part of the table's values is further from the definition than its dtype and fp32 explain."""
    rows = torch.linspace(0, len(table) - 1, min(ROWS, len(table)), dtype=torch.float64).long()
    angles = rows.double()[:, None] * frequencies
    exact = torch.cat((angles.cos(), angles.sin()), -1) * factor
    # The angle was computed in fp32 from a frequency in fp32: each may be wrong by a few units in the last place.
    bound = torch.finfo(table.dtype).eps * exact.abs().clamp_min(2**-8) + torch.cat((angles, angles), -1) * 2.0**-20
    found = table[rows.to(table.device)].cpu().double()
    return float((~((found - exact).abs() <= bound + 1e-6)).double().mean())
