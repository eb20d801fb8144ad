"""Doubles of the operators that quantise: vllm-ascend's fusion passes run them once, to trace the patterns that they
look for, whatever the model.

Formulas of torch_npu's documentation in fp32. Limits: to int8, as the passes ask; no smoothing, no groups.
"""

import torch

from .doubles import require

LARGEST = 127
INT8 = (1, 12)  # the numbers of torch.int8 and torch.qint8


def to_int8(x: torch.Tensor) -> torch.Tensor:
    return x.round().clamp(-LARGEST - 1, LARGEST).to(torch.int8)


def dynamic_quant(
    input: torch.Tensor,
    *,
    smooth_scales: torch.Tensor | None = None,
    group_index: torch.Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token by its largest value."""
    plain = smooth_scales is group_index is None and quant_mode == "pertoken" and dst_type in (None, *INT8)
    require(plain, "npu_dynamic_quant", f"tokens to int8, no smoothing; got {quant_mode!r}, type {dst_type}")
    scale = input.float().abs().amax(-1) / LARGEST
    return to_int8(input.float() / scale[..., None]), scale


def quantize(
    input: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    dtype: int,
    axis: int = 1,
    div_mode: bool = True,
) -> torch.Tensor:
    """By given scales, one for each place of the last axis."""
    require(dtype in INT8 and axis in (-1, input.dim() - 1), "npu_quantize", f"type {dtype}, axis {axis}")
    scaled = input.float() / scales.float() if div_mode else input.float() * scales.float()
    return to_int8(scaled if zero_points is None else scaled + zero_points.float())


DOUBLES = {"npu::npu_dynamic_quant": dynamic_quant, "npu::npu_quantize": quantize}
