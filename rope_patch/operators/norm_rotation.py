"""Split, RMS norms of q and k, and their rotation, as an operator: its calls, synthetic inputs, and kernels.

A token's row of ``qkv`` holds the heads of q (each followed by its gate, where there are gates), of k, and of v. Each
head of q and k is normed and rotated; v and the gates are moved along. The results are written into tensors that the
caller gives, which are none of the inputs: a call may be computed again.

What it computes, and how far from that rounding may lead, is in ``norm_reference.py``; which tensors it takes, in
``norm_arguments.py``.
"""

import functools
from dataclasses import dataclass, replace

from torch import Tensor

from rope_patch.kernels.launch import Launch, unaligned
from rope_patch.kernels.normed import NormedTiles
from rope_patch.kernels.normed_by_heads import NormedByHeads
from rope_patch.kernels.normed_padded_plan import NormedPadded
from rope_patch.kernels.normed_parts import NormedParts
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.orders import order_of
from rope_patch.kernels.plan import Device, Plan
from rope_patch.kernels.planning import Kernels
from rope_patch.operators.norm_inputs import Angles, NormRotation, Tensors, synthetic
from rope_patch.serving import call as serving
from rope_patch.serving.sample import Sample

KERNELS: Kernels = (NormedTiles, NormedParts, NormedByHeads, NormedPadded)


@dataclass(frozen=True)
class NormRotationCall(serving.Call):
    """One call, its arguments checked by ``norm_arguments.parse``."""

    tensors: Tensors
    angles: Angles  # cos (and sin) of two dimensions, or with axes of three
    asked: NormRotation

    name = "norm and rotation"
    kernels = KERNELS
    again = True
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
        # Each is a type of its own in the compiled kernel.
        weights = [str(one.dtype) for one in self.tensors[5:] if one is not None]
        weights = weights[:1] if len(set(weights)) == 1 else weights
        order = order_of(asked.axes) if asked.axes else None
        (_, lanes), (stride, _) = self.tensors.qkv.shape, self.tensors.qkv.stride()
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
            *([] if stride == lanes else [f"rows {stride} apart"]),
            unaligned(*(one for one in self.read if one is not None)),
            *([f"strides of {unit}"] if (unit := self.stride_unit(device)) > 1 else []),
        )

    def scratch(self, device: Device) -> int:
        """Of rows of qkv and of the results, which have as many lanes, and of gathered cosines and sines."""
        qkv, (cos, sin, positions) = self.tensors.qkv, self.angles
        rows = (3 if self.asked.axes else 1 if sin is None else 2) if positions is None else 0
        lanes = qkv.stride(0) + qkv.shape[1]
        return lanes * qkv.element_size() + rows * self.asked.rotary_dim * cos.element_size()

    def synthetic(self, num_tokens: int, device: Device) -> tuple["NormRotationCall", list[Sample]]:
        tensors, angles, samples = synthetic(num_tokens, self.tensors, self.angles, self.asked)
        return replace(self, tensors=tensors, angles=angles), samples
