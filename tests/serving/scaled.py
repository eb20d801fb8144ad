"""A toy operator, which serving does not know: ``y = a * x`` of one tensor, or of two, in place or fresh.

``served`` is what an operator's dispatch does: a cached launch, or the first call.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.plan import Constant, Device, Plan
from rope_patch.serving import first_call, layouts
from rope_patch.serving.call import Call, InPlace, Pair
from rope_patch.serving.failures import NotStarted
from rope_patch.serving.sample import NotNow, Sample, placed
from tests.rotations import DEVICE

LANES = 16
TILE = 4  # tokens


@triton.jit(do_not_specialize=["num_tokens"])
def scaled_kernel(x, z, x_out, z_out, a, num_tokens, LANES: tl.constexpr, TILE: tl.constexpr, TWO: tl.constexpr):
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    at = token[:, None] * LANES + tl.arange(0, LANES)[None, :]
    mask = (token < num_tokens)[:, None] & (tl.arange(0, LANES) < LANES)[None, :]
    factor = tl.load(a)
    if x_out is None:
        tl.store(x + at, tl.load(x + at, mask=mask, other=0.0) * factor, mask=mask)
    else:
        tl.store(x_out + at, tl.load(x + at, mask=mask, other=0.0) * factor, mask=mask)
    if TWO:
        if z_out is None:
            tl.store(z + at, tl.load(z + at, mask=mask, other=0.0) * factor, mask=mask)
        else:
            tl.store(z_out + at, tl.load(z + at, mask=mask, other=0.0) * factor, mask=mask)


@dataclass(frozen=True)
class Scaled(Plan):
    """Tiles of so many tokens, one for each program."""

    function = scaled_kernel
    powers_of_two = not DEVICE.startswith("npu")
    units = 1

    block_tokens: int

    @classmethod
    def candidates(cls, shape: int, device: Device) -> Iterable["Scaled"]:
        return (cls(tokens) for tokens in (1, TILE))

    def constants(self, shape: int, stride_unit: int = 1) -> dict[str, Constant]:
        return {"LANES": LANES, "TILE": self.block_tokens, "TWO": shape == 2}


@dataclass(frozen=True)
class ScaledCall(Call):
    """``shape`` is the number of tensors: all that the plans follow from."""

    x: torch.Tensor  # [num_tokens, LANES], contiguous, float32
    z: torch.Tensor | None
    a: torch.Tensor  # [1]

    kernels = (Scaled,)
    shared = "x and z share memory that would be scaled in place"

    @property
    def num_tokens(self) -> int:
        return len(self.x)

    @property
    def written(self) -> Pair:
        return self.x, self.z

    def memory(self, *outputs: Any) -> tuple[Any, ...]:
        return (self.x, self.z, *outputs, self.a)

    def shape(self, fresh: bool) -> int:
        return 1 if self.z is None else 2

    def launch(self, shape: int, plan: Plan, device: Device) -> Launch:
        programs = plan.grid(self.num_tokens, replace(device, max_programs=2**31 - 1))[0]
        return Launch(plan.function, programs, (self.num_tokens,), plan.constants(shape))

    def words(self, shape: int, device: Device, in_place: InPlace) -> tuple[object, ...]:
        return ("scaled", f"{shape} tensors", f"in place {sum(in_place)}")

    def scratch(self, device: Device, in_place: InPlace) -> int:
        return 4 * LANES * 4

    def synthetic(self, num_tokens: int, device: Device, in_place: InPlace) -> tuple["ScaledCall", list[Sample]]:
        factor = self.a.cpu()
        if not factor.isfinite().all():
            raise NotNow("the factor is not finite")
        generator = torch.Generator("cpu").manual_seed(0)
        samples = []
        for name, tensor in (("x", self.x), ("z", self.z)):
            if tensor is not None:
                before = torch.randn(num_tokens, LANES, generator=generator)
                exact = before.double() * factor.double()
                # One product, rounded once: half a unit in the last place.
                samples.append(
                    Sample(name, placed(before, (LANES, 1), tensor), before, exact, exact.abs() * 2.0**-24 + 2.0**-149)
                )
        z = samples[1].tensor if self.z is not None else None
        return replace(self, x=samples[0].tensor, z=z), samples


def call(num_tokens: int = 5, tensors: int = 2, seed: int = 0) -> ScaledCall:
    generator = torch.Generator("cpu").manual_seed(seed)
    x, z = (torch.randn(num_tokens, LANES, generator=generator).to(DEVICE) for _ in range(2))
    return ScaledCall(x, z if tensors == 2 else None, torch.full((1,), 3.0).to(DEVICE))


def served(given: ScaledCall, fresh: bool) -> Pair | None:
    """As an operator's dispatch does."""
    in_place = not fresh, not fresh and given.z is not None
    layout = (given.x.shape, None if given.z is None else given.z.shape, in_place)
    cached = layouts.last[1] if layouts.last[0] == layout else layouts.look_up(layout)
    if cached is not None:
        x, z, _, _, a = given.memory(None, None)
        try:
            return cached(x, z, x.data_ptr(), None if z is None else z.data_ptr(), a.data_ptr())
        except NotStarted:
            return None
    return first_call.serve(given, layout, in_place, "eager")
