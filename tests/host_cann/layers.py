"""Doubles of the operators of a transformer's layers that only an NPU has: norms, gates, the weights' formats.

Each is its formula in fp32, rounded once, where the real one may round more often. Limits: what is written here is what
vllm-ascend's engine asks for; other arguments raise ``ValueError`` naming the operator, by ``doubles.require``.
"""

import torch
from torch.nn import functional

from .doubles import require, rms_norm


def add_rms_norm(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The norm of a sum, its reciprocal deviation, and the sum."""
    total = (x1.float() + x2.float()).to(x1.dtype)
    return *rms_norm(total, gamma, epsilon), total


def add_rms_norm_bias(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor | None = None, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """vllm-ascend's own operator."""
    norm, deviation, total = add_rms_norm(x1, x2, gamma, epsilon)
    return norm if beta is None else norm + beta, deviation, total


def add_rms_norm_bias_shapes(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor | None = None, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The shapes, for tracing."""
    deviation = x1.new_empty((*x1.shape[:-1], 1), dtype=torch.float32)
    return torch.empty_like(x1), deviation, torch.empty_like(x1)


def swiglu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    gate, value = x.float().chunk(2, dim)
    return (functional.silu(gate) * value).to(x.dtype)


ND, FRACTAL_NZ = 2, 29


def format_cast(x: torch.Tensor, acl_format: int, *rest: object, **named: object) -> torch.Tensor:
    """Changes nothing: a format is an order of values in an NPU's memory, and here memory is always row by row."""
    require(acl_format in (ND, FRACTAL_NZ), "npu_format_cast", f"format {acl_format}")
    return x.clone()


def matmul_add_fp32(x: torch.Tensor, weight: torch.Tensor, c: torch.Tensor) -> None:
    """In place: ``c += x.T @ weight``."""
    require(c.dtype == torch.float32, "_npu_matmul_add_fp32", f"sums of {c.dtype}")
    c += x.float().T @ weight.float()


DOUBLES = {
    "npu::npu_add_rms_norm": add_rms_norm,
    "npu::npu_swiglu": swiglu,
    "npu::npu_format_cast": format_cast,
    "npu::npu_format_cast.aclnn_format_cast": format_cast,
    "atb::_npu_matmul_add_fp32": matmul_add_fp32,
}
CUSTOM = {"npu_add_rms_norm_bias": add_rms_norm_bias}  # of vllm-ascend's extension
