"""Build calls of norm and rotation for tests, with memory around them, start kernels, and compare results with fp64."""

from dataclasses import dataclass, field
from typing import Any

import torch

from rope_patch.kernels.launch import INTERPRETED, Launch, device_facts
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Plan
from rope_patch.kernels.planning import make_plan
from rope_patch.operators.norm_rotation import KERNELS as NORMED
from tests.host_cann import environment as host_cann
from tests.host_cann import fixture

if INTERPRETED:
    DEVICE = "cpu"
elif host_cann.active():
    DEVICE = "npu:0"
    fixture.initialise()
else:
    DEVICE = "cuda"
PADDING = 24  # unused lanes between rows of qkv


@dataclass
class Normed:
    """Arguments of one call, and what its results must be. ``cos`` and ``sin`` are rows of each token (and axis)."""

    shape: NormedShape
    qkv: torch.Tensor
    weights: tuple[torch.Tensor, torch.Tensor]
    biases: tuple[torch.Tensor, torch.Tensor] | None
    cos: torch.Tensor
    sin: torch.Tensor | None
    positions: torch.Tensor | None
    rows: torch.Tensor  # [num_tokens, rotary_dim], the cosines and sines that each token turns by, fp64
    outputs: list[torch.Tensor | None] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return self.qkv.shape[0]

    def memory(self) -> tuple[Any, ...]:
        """The kernels' first arguments."""
        return (self.qkv, *self.outputs, *self.weights, *(self.biases or (None, None)), self.cos, self.sin,
                self.positions)  # fmt: skip

    def numbers(self, each: int, unit: int) -> tuple[int, ...]:
        numbers = (self.num_tokens, each, self.cos.shape[-2], self.cos.stride(-2) // unit, self.qkv.stride(0) // unit)
        if not self.shape.axes:
            return numbers
        of_axis = self.cos if self.positions is None else self.positions
        return (*numbers, of_axis.stride(0))

    def launch(self, plan: Plan | None = None) -> Plan:
        device = device_facts(self.qkv.device)
        plan = plan or make_plan(NORMED, self.shape, self.num_tokens, device)
        unit = 1 if any(x % device.stride_unit for x in (self.cos.stride(-2), self.qkv.stride(0))) else 16
        unit = min(unit, device.stride_unit)
        programs, each = plan.grid(self.num_tokens, device)
        numbers = self.numbers(each, unit)
        Launch(plan.function, programs, numbers, plan.constants(self.shape, unit)).on(_Memory(self))
        return plan

    def exact(self) -> list[torch.Tensor | None]:
        """q, k, v and the gate in fp64, on the host."""
        shape, size = self.shape, self.shape.head_size
        gated = 2 if shape.has_gate else 1
        q_width, k_width = shape.num_heads * gated * size, shape.num_kv_heads * size
        q, k, v = self.qkv.cpu().double()[:, : q_width + 2 * k_width].split([q_width, k_width, k_width], -1)
        q, k = q.unflatten(-1, (shape.num_heads, gated, size)), k.unflatten(-1, (-1, size))
        biases = self.biases or (None, None)
        results = [
            self._turned(x, weight, bias).flatten(1)
            for x, weight, bias in zip((q[:, :, 0], k), self.weights, biases, strict=True)
        ]
        return [*results, v, q[:, :, 1].flatten(1) if shape.has_gate else None]

    def _turned(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x = x / (x.square().mean(-1, keepdim=True) + self.shape.eps).sqrt() * weight.cpu().double()
        if bias is not None:
            x = x + bias.cpu().double()
        half = self.shape.half
        cos, sin = self.rows[:, None, :half], self.rows[:, None, half:]
        x1, x2 = x[..., :half], x[..., half : 2 * half]
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin, x[..., 2 * half :]), -1)


@dataclass
class _Memory:
    case: Normed

    def memory(self, *_: Any) -> tuple[Any, ...]:
        return self.case.memory()


def normed(
    num_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    rotary_dim: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    weight_dtype: torch.dtype | None = None,
    cache_dtype: torch.dtype | None = None,
    positions_dtype: torch.dtype = torch.int64,
    gathered: str = "",
    axes: str = "",
    has_gate: bool = False,
    has_bias: bool = False,
    strided: bool = True,
    eps: float = 1e-6,
    max_position: int = 97,
    seed: int = 0,
) -> Normed:
    """Random qkv, weights near one. ``gathered``: "" by position, "together" rows of cosines and sines, "apart" rows of
    cosines and rows of sines, as wide as heads are, of which first halves count."""
    g = torch.Generator().manual_seed(seed)
    shape = NormedShape(
        head_size, rotary_dim, num_heads, num_kv_heads, eps, 0, dtype.itemsize, (cache_dtype or dtype).itemsize,
        not gathered, axes, has_gate, has_bias,
    )  # fmt: skip
    width = shape.heads * head_size
    storage = torch.randn(num_tokens, width + (PADDING if strided else 0), generator=g).to(DEVICE, dtype)
    qkv = storage[:, :width]
    shape = NormedShape(**vars(shape) | {"token_stride": qkv.stride(0)})

    def lanes(scale: float, around: float) -> torch.Tensor:
        return (around + scale * torch.randn(head_size, generator=g)).to(DEVICE, weight_dtype or dtype)

    weights = lanes(0.2, 1), lanes(0.2, 1)
    biases = (lanes(0.2, 0), lanes(0.2, 0)) if has_bias else None
    angles = torch.rand(max_position, rotary_dim // 2, generator=g) * 6.3
    cache = torch.cat((angles.cos(), angles.sin()), -1).to(cache_dtype or dtype)
    positions = torch.randint(0, max_position, (3, num_tokens) if axes else (num_tokens,), generator=g)
    rows = cache[positions]
    of_token = rows
    if axes:
        lane_axes = torch.tensor(list(map("thw".index, 2 * axes)))
        of_token = torch.stack([rows[axis, :, lane] for lane, axis in enumerate(lane_axes)], -1)
    cos, sin, places = cache.to(DEVICE), None, positions.to(DEVICE, positions_dtype)  # type: Any, Any, Any
    if gathered == "together":
        cos, places = rows.to(DEVICE), None
    elif gathered == "apart":
        half = rotary_dim // 2
        padding = torch.full((*rows.shape[:-1], head_size - half), float("nan"), dtype=rows.dtype)
        cos, sin = (torch.cat((x, padding), -1).to(DEVICE) for x in (rows[..., :half], rows[..., half:]))
        places = None
    outputs = [
        torch.full((num_tokens, heads * head_size), float("nan"), dtype=dtype).to(DEVICE) if heads else None
        for heads in (num_heads, num_kv_heads, num_kv_heads, num_heads if has_gate else 0)
    ]
    return Normed(shape, qkv, weights, biases, cos, sin, places, of_token.double(), outputs)


def assert_normed(case: Normed) -> None:
    """q and k are within one rounding of fp64, beside fp32's own errors; v and the gate are as they were."""
    for name, got, exact in zip(("q", "k", "v", "gate"), case.outputs, case.exact(), strict=True):
        if got is None or exact is None:
            continue
        got = got.cpu()
        assert not got.isnan().any(), f"{name}: some lanes were not written"
        if name in ("v", "gate"):
            assert torch.equal(got.double(), exact), f"{name} changed"
            continue
        step = torch.finfo(got.dtype).eps
        # What cancels is as large as the head's largest lanes: fp32 is off by a few of its steps of those.
        bound = exact.abs() * step / 2 + exact.abs().amax(-1, keepdim=True) * 2.0**-20 + torch.finfo(got.dtype).tiny
        excess = (got.double() - exact).abs() - bound
        assert excess.max() <= 0, f"{name}: {excess.max():.3g} too much"
