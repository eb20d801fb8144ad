"""Split, RMS norms of q and k, and their rotation, as an operator: its calls, synthetic inputs, and kernels.

A token's row of ``qkv`` holds the heads of q (each followed by its gate, where there are gates), of k, and of v. Each
head of q and k is normed and rotated; v and the gates are moved along. The results are written into tensors that the
caller gives, which are none of the inputs: a call may be computed again.

What it computes, and how far from that rounding may lead, is in ``norm_reference.py``; which tensors it takes, in
``norm_arguments.py``.
"""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from rope_patch.kernels.launch import Launch, unaligned
from rope_patch.kernels.normed import NormedTiles
from rope_patch.kernels.normed_by_heads import NormedByHeads
from rope_patch.kernels.normed_padded_plan import NormedPadded
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.orders import order_of
from rope_patch.kernels.plan import Device, Plan
from rope_patch.kernels.planning import Kernels
from rope_patch.operators.norm_reference import expected
from rope_patch.operators.reference import rows_of
from rope_patch.serving import call as serving
from rope_patch.serving.sample import NotNow, Sample, placed

KERNELS: Kernels = (NormedTiles, NormedByHeads, NormedPadded)
NAMES = "query", "key", "value", "gate"  # what is written


class NormRotation(NamedTuple):
    """What is asked. NeoX style. A plain tuple, since comparing and hashing those is fast."""

    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int
    eps: float
    axes: str = ""  # which of three positions each pair of lanes turns by (``orders.py``); empty for one position


class Tensors(NamedTuple):
    """Those of a call, beside its angles; in the order in which kernels take them."""

    qkv: Tensor  # [num_tokens, the heads of q, with gates or without, of k and of v, beside each other]
    query: Tensor  # written, as the next three: [num_tokens, num_heads * head_size], contiguous
    key: Tensor
    value: Tensor
    gate: Tensor | None
    q_weight: Tensor  # [head_size], as the next three
    k_weight: Tensor
    q_bias: Tensor | None
    k_bias: Tensor | None


class Angles(NamedTuple):
    """Cosines and sines: a cache with positions, or rows that the caller gathered, one a token."""

    cos: Tensor  # [rows, rotary_dim], cosines then sines; gathered with axes [3, num_tokens, rotary_dim]
    sin: Tensor | None  # gathered beside ``cos``, whose rows then are cosines; second halves repeat the first
    positions: Tensor | None  # [num_tokens], or with axes [3, num_tokens]; None: gathered


@dataclass(frozen=True)
class NormRotationCall(serving.Call):
    """One call, its arguments checked by ``norm_arguments.parse``."""

    tensors: Tensors
    angles: Angles  # cos (and sin) of two dimensions, or with axes of three
    asked: NormRotation

    name = "norm and rotation"
    kernels = KERNELS
    runs = 4  # since upstream's is reported to be different from run to run

    @property
    def num_tokens(self) -> int:
        return len(self.tensors.qkv)

    @property
    def results(self) -> tuple[serving.New | None, ...]:
        """None is new, and none is an input: what is given is written."""
        return ()

    @property
    def read(self) -> serving.Tensors:
        return *self.tensors, *self.angles

    @property
    def in_place(self) -> list[Tensor]:
        return [tensor for tensor in self.tensors[1:5] if tensor is not None]

    def answer(self, *new: Tensor | None) -> serving.Tensors:
        return tuple(self.in_place)

    @property
    def strides(self) -> tuple[int, int]:
        """Of rows of cosines and of qkv."""
        return self.angles.cos.stride(-2), self.tensors.qkv.stride(0)

    def stride_unit(self, device: Device) -> int:
        """What the kernel's strides are divided by."""
        return 1 if any(stride % device.stride_unit for stride in self.strides) else device.stride_unit

    @functools.cached_property
    def shape(self) -> NormedShape:
        asked, qkv = self.asked, self.tensors.qkv
        return NormedShape(
            *asked[:5],
            token_stride=qkv.stride(0),
            itemsize=qkv.element_size(),
            cache_itemsize=self.angles.cos.element_size(),
            by_position=self.angles.positions is not None,
            axes=asked.axes,
            has_gate=self.tensors.gate is not None,
            has_bias=self.tensors.q_bias is not None,
        )

    def launch(self, plan: Plan, device: Device) -> Launch:
        num_tokens, (cos, _, positions) = self.num_tokens, self.angles
        if num_tokens < plan.least_tokens:
            raise ValueError(f"a plan for {plan.least_tokens} tokens and more; got {num_tokens}")
        (programs, each), unit = plan.grid(num_tokens, device), self.stride_unit(device)
        numbers = (num_tokens, each, cos.shape[-2], *(stride // unit for stride in self.strides))
        if self.asked.axes:
            numbers += ((cos if positions is None else positions).stride(0),)
        return Launch(plan.function, programs, numbers, plan.constants(self.shape, unit))

    def words(self, device: Device) -> tuple[object, ...]:
        asked, (cos, sin, positions) = self.asked, self.angles
        weights = {str(one.dtype): None for one in self.tensors[5:] if one is not None}
        order = order_of(asked.axes) if asked.axes else None
        return (
            "norm and rotation, neox",
            self.tensors.qkv.dtype,
            f"heads {asked.num_heads}/{asked.num_kv_heads}",
            f"head_size {asked.head_size}",
            f"rotary_dim {asked.rotary_dim}",
            f"eps {asked.eps:g}",
            f"weights {' '.join(weights)}",
            *(["bias"] if self.tensors.q_bias is not None else []),
            *(["gate"] if self.tensors.gate is not None else []),
            f"{'gathered' if positions is None else 'cache'} {cos.dtype}",
            *([] if positions is None else [positions.dtype]),
            *([] if sin is None else ["sines apart"]),
            *([f"axes {order[0]} {asked.axes.count('t')} {order[1]} {order[2]}"] if order else []),
            unaligned(*(one for one in self.read if one is not None)),
            *([f"strides of {unit}"] if (unit := self.stride_unit(device)) > 1 else []),
        )

    def scratch(self, device: Device) -> int:
        """Rows of qkv and of the results, which have as many lanes; and rows of cosines and sines."""
        rows = 0 if self.angles.positions is not None else (1 + bool(self.asked.axes) * 2) * self.asked.rotary_dim
        return 2 * self.tensors.qkv.shape[1] * self.tensors.qkv.element_size() + rows * self.angles.cos.element_size()

    def synthetic(self, num_tokens: int, device: Device) -> tuple["NormRotationCall", list[Sample]]:
        """Random qkv, whose heads differ in size, random weights and biases around those of models; positions spread
        over the real cache (those of a warm-up are zeros), or random angles in place of gathered ones."""
        generator = torch.Generator("cpu").manual_seed(0)  # the global one's random numbers are the model's
        asked, given = self.asked, self.tensors
        angles, rows = self._spread(num_tokens, generator)
        gates = given.gate is not None
        heads = given.qkv.shape[1] // asked.head_size
        sizes = torch.exp2(6 * torch.rand(num_tokens, heads, 1, generator=generator) - 3)
        qkv = sizes * torch.randn(num_tokens, heads, asked.head_size, generator=generator)
        qkv = qkv.to(given.qkv.dtype)
        parameters = []
        for like, middle in zip(given[5:], (1, 1, 0, 0), strict=True):
            random = middle + torch.randn(asked.head_size, generator=generator) / 4
            parameters.append(None if like is None else random.to(like.dtype))
        q, k, v = qkv.split([asked.num_heads * (1 + gates), asked.num_kv_heads, asked.num_kv_heads], dim=1)
        parts = [q[:, :: 1 + gates], k, v, *([q[:, 1::2]] if gates else [])]
        samples, written = [], []
        for name, part, like in zip(NAMES, parts, self.in_place, strict=False):
            if name in ("query", "key"):
                at = name == "key"
                exact, bound = expected(part, parameters[at], parameters[2 + at], asked.eps, rows)
            else:
                exact, bound = part.double(), torch.zeros(part.shape, dtype=torch.float64)
            nothing = torch.full(like.shape[1:], float("nan")).expand(num_tokens, -1).to(like.dtype)
            written.append(placed(nothing, (like.shape[1], 1), like))
            samples.append(Sample(name, exact.flatten(1), bound.flatten(1)))
        tensors = Tensors(
            placed(qkv.flatten(1), given.qkv.stride(), given.qkv),
            *written,
            *([] if gates else [None]),
            *(None if one is None else placed(one, (1,), like) for one, like in zip(parameters, given[5:], strict=True)),
        )
        return replace(self, tensors=tensors, angles=angles), samples

    def _spread(self, num_tokens: int, generator: torch.Generator) -> tuple[Angles, Tensor]:
        """Angles of the same kind, and each token's row of them, on the host."""
        cos, sin, positions = self.angles
        axes, rotary_dim = self.asked.axes, self.asked.rotary_dim
        if positions is None:
            turns = 6.28 * torch.rand(3 if axes else 1, num_tokens, rotary_dim // 2, generator=generator)
            cache = torch.cat((turns.cos(), turns.sin()), -1).to(cos.dtype).flatten(0, 1)
            at = torch.arange(len(cache)).view(3 if axes else 1, num_tokens)
            rows = rows_of(at if axes else at[0], cache, axes)
            if sin is None:
                gathered = cache.view(3, num_tokens, rotary_dim) if axes else cache
                return Angles(placed(gathered, gathered.stride(), cos), None, None), rows
            halves = (half.repeat(1, 2) for half in cache.chunk(2, -1))
            cos, sin = (placed(half, (rotary_dim, 1), like) for half, like in zip(halves, (cos, sin), strict=True))
            return Angles(cos, sin, None), rows
        last = len(cos) - 1
        at = torch.linspace(last, 0, num_tokens, dtype=torch.float64, device="cpu").long()
        if axes:  # those of a token differ: equal ones would prove nothing
            at = torch.stack([(at + last * axis // 3) % (last + 1) for axis in range(3)])
        # Copying to the host waits for the device, so an earlier fault of the device is raised here, before the launch.
        rows = rows_of(at.to(cos.device), cos, axes).cpu()
        if not rows.isfinite().all():  # vLLM sleeps, or has not loaded the model yet
            raise NotNow("the cache holds values that are not finite")
        strides = (num_tokens + 1, 1) if axes else (1,)
        return Angles(cos, None, placed(at.to(positions.dtype), strides, positions)), rows
