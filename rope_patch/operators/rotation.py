"""The rotation of q and k by position (RoPE), as an operator: its calls, synthetic inputs, and kernels.

What it computes, and how far from that rounding may lead, is in ``reference.py``; which tensors it takes, and what it
answers to others, in ``arguments.py``.
"""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from rope_patch.kernels.by_heads import ByHeads
from rope_patch.kernels.launch import Launch, unaligned
from rope_patch.kernels.orders import order_of
from rope_patch.kernels.padded_plan import Padded
from rope_patch.kernels.plan import Device, Plan
from rope_patch.kernels.planning import Kernels, plans_of
from rope_patch.kernels.shape import Rotation as Rotation
from rope_patch.kernels.shape import Shape
from rope_patch.kernels.tiles import Tiles
from rope_patch.kernels.transposed import Transposed
from rope_patch.operators.reference import expected, rows_of
from rope_patch.serving.call import Call, New, Results, Tensors
from rope_patch.serving.sample import NotNow, Sample, placed

KERNELS: Kernels = (Transposed, Tiles, ByHeads, Padded)
# How a shape calls pairs of these types that are whole 32-bit words.
WORDS = {torch.bfloat16: "bf16 words", torch.float16: "fp16 words"}


class Asked(dict[tuple[int, int, bool], Rotation]):
    """Rotations that were asked for, since looking one up takes a sixth of the time of making it."""

    def __missing__(self, asked: tuple[int, int, bool]) -> Rotation:
        return self.setdefault(asked, Rotation(*asked))


ROTATIONS = Asked()


class Heads(NamedTuple):
    """q or k as the kernel sees it: where head h of token t begins, in elements."""

    tensor: Tensor
    num_heads: int
    token_stride: int
    head_stride: int


@dataclass(frozen=True)
class RotationCall(Call):
    """One rotation, its arguments checked by ``arguments.parse``."""

    positions: Tensor  # [num_tokens], contiguous, int32 or int64; with axes [3, num_tokens], rows contiguous
    query: Heads
    key: Heads | None
    cos_sin_cache: Tensor  # [max_position, rotary_dim], rows contiguous
    rotation: Rotation
    fresh: tuple[bool, bool]  # which of q and k is rotated into a new tensor, and not in place

    name = "rotary embedding"
    kernels = KERNELS
    shared = "query and key share memory that would be rotated in place"

    @functools.cached_property
    def num_tokens(self) -> int:
        if not (self.query.num_heads or (self.key and self.key.num_heads)):
            return 0
        return self.positions.numel() // (3 if self.rotation.axes else 1)

    @functools.cached_property
    def written(self) -> Tensors:
        return self.query.tensor, self.key.tensor if self.key else None

    @functools.cached_property
    def results(self) -> Results:
        both = zip(self.written, self.fresh, strict=True)
        return tuple(New(x.shape, x.dtype) if x is not None and fresh else None for x, fresh in both)

    @functools.cached_property
    def read(self) -> tuple[Tensor, Tensor]:
        return self.cos_sin_cache, self.positions

    @functools.cached_property
    def device(self) -> torch.device:
        return self.read[0].device

    @functools.cached_property
    def whole_words(self) -> bool:
        """Whether every pair of lanes (2 i, 2 i + 1) of q and of k is an aligned 32-bit word."""
        even = not any(number % 2 for number in (self.rotation.head_size, *self.strides[1:]))
        aligned = not any(tensor is not None and tensor.data_ptr() % 4 for tensor in self.written)
        return self.query.tensor.element_size() == 2 and even and aligned

    @functools.cached_property
    def strides(self) -> tuple[int, ...]:
        """Of the cache, q and k, as the kernel takes them."""
        return (self.cos_sin_cache.stride(0), *self.query[2:], *(self.key[2:] if self.key else (0, 0)))

    def stride_unit(self, device: Device) -> int:
        """What the kernel's strides are divided by."""
        return 1 if any(stride % device.stride_unit for stride in self.strides) else device.stride_unit

    @functools.cached_property
    def shape(self) -> Shape:
        query, key = self.query, self.key
        return Shape(
            self.rotation,
            num_heads=query.num_heads,
            num_kv_heads=key.num_heads if key else 0,
            token_stride=max(query.token_stride, key.token_stride if key else 0),
            itemsize=query.tensor.element_size(),
            cache_itemsize=self.cos_sin_cache.element_size(),
            fresh=any(self.results),
            words=WORDS[query.tensor.dtype] if not self.rotation.is_neox_style and self.whole_words else "",
        )

    def launch(self, plan: Plan, device: Device) -> Launch:
        num_tokens, unit, in_words = self.num_tokens, self.stride_unit(device), plan.in_words
        if num_tokens < plan.least_tokens:
            raise ValueError(f"a plan for {plan.least_tokens} tokens and more; got {num_tokens}")
        programs, each = plan.grid(num_tokens, device)
        units = (unit, *(4 * [2 if in_words else unit]))
        strides = (stride // by for stride, by in zip(self.strides, units, strict=True))
        numbers = (num_tokens, each, self.cos_sin_cache.shape[0], *strides)
        if self.rotation.axes:
            numbers += (self.positions.stride(0),)
        return Launch(plan.function, programs, numbers, plan.constants(self.shape, unit), words=4 if in_words else 0)

    def words(self, device: Device) -> tuple[object, ...]:
        query, key, asked, shape = self.query, self.key, self.rotation, self.shape
        unit, odd = self.stride_unit(device), query.tensor.element_size() == 2 and not self.whole_words
        plans = plans_of(self.kernels, shape, device)
        far = plans != plans_of(self.kernels, replace(shape, token_stride=0), device)
        order = order_of(asked.axes) if asked.axes else None
        axes = f"{order[0]} {asked.axes.count('t')} {order[1]} {order[2]}" if order else asked.axes
        return (
            "neox" if asked.is_neox_style else "gpt-j of odd strides" if odd else "gpt-j",
            query.tensor.dtype,
            f"heads {query.num_heads}/{key.num_heads if key else 0}",
            f"head_size {asked.head_size}",
            f"rotary_dim {asked.rotary_dim}",
            "query fresh" if self.fresh[0] else "query in place",
            "no key" if key is None else "key fresh" if self.fresh[1] else "key in place",
            f"cache {self.cos_sin_cache.dtype}",
            self.positions.dtype,
            *([f"axes {axes}"] if axes else []),
            unaligned(self.positions, self.cos_sin_cache, query.tensor, (key or query).tensor),
            *([f"strides of {unit}"] if unit > 1 else []),
            *([f"rows far apart, {plans[-1].block_tokens} tokens a tile"] if far else []),
        )

    def scratch(self, device: Device) -> int:
        both = [heads for heads in (self.query, self.key) if heads]
        copies = 2 if any(self.results) else 1
        rows = sum(copies * heads.num_heads + 1 for heads in both)
        return rows * self._head_stride(device) * self.query.tensor.element_size()

    def synthetic(self, num_tokens: int, device: Device) -> tuple["RotationCall", list[Sample]]:
        """Random q and k, and positions spread over the real cache: those of a warm-up are zeros, by which nothing
        turns. Strides are multiples of the same unit, to select the kernel that will serve."""
        generator = torch.Generator("cpu").manual_seed(0)  # the global one's random numbers are the model's
        positions = self._spread(num_tokens)
        head_stride = self._head_stride(device)
        apart = head_stride + (self.stride_unit(device) < device.stride_unit)
        made = []
        for heads, fresh in zip((self.query, self.key), self.fresh, strict=True):
            if heads:
                strides = heads.num_heads * head_stride + (apart if fresh else 0), head_stride
                size = num_tokens, heads.num_heads, self.rotation.head_size
                before = torch.randn(size, generator=generator, device="cpu").to(heads.tensor.dtype)
                made.append((Heads(placed(before, (*strides, 1), heads.tensor), heads.num_heads, *strides), before))
        # Copying to the host waits for the device, so an earlier fault of the device is raised here, before the launch.
        rows = rows_of(positions, self.cos_sin_cache, self.rotation.axes).cpu()
        if not rows.isfinite().all():  # vLLM sleeps, or has not loaded the model yet
            raise NotNow("the cache holds values that are not finite")
        samples = [
            Sample(name, *expected(before, rows, self.rotation))
            for name, (_, before) in zip(("query", "key"), made, strict=False)
        ]
        query, key = made[0][0], made[1][0] if self.key else None
        return replace(self, positions=positions, query=query, key=key), samples

    def _head_stride(self, device: Device) -> int:
        unit = self.stride_unit(device)
        return -(-self.rotation.head_size // unit) * unit

    def _spread(self, num_tokens: int) -> Tensor:
        """Positions over the cache. Those of the three axes of a token differ: equal ones would prove nothing."""
        last = self.cos_sin_cache.shape[0] - 1
        spread = torch.linspace(last, 0, num_tokens, dtype=torch.float64, device="cpu").long().to(self.positions.dtype)
        if not self.rotation.axes:
            return placed(spread, (1,), self.positions)
        rows = torch.stack([(spread + last * axis // 3) % (last + 1) for axis in range(3)])
        return placed(rows, (num_tokens + 1, 1), self.positions)
