"""A toy operator, which serving does not know: ``y = a * x`` of one tensor, or of two, in place or fresh.

``served`` is what an operator's dispatch does: a cached launch, or the first call.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.plan import Constant, Device, Plan
from rope_patch.serving import first_call, layouts
from rope_patch.serving.cached_launch import Results
from rope_patch.serving.call import Call, New, Tensors
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
    fresh: bool

    name = "scaling"
    kernels = (Scaled,)
    shared = "x and z share memory that would be scaled in place"

    @property
    def num_tokens(self) -> int:
        return len(self.x)

    @property
    def written(self) -> Tensors:
        return self.x, self.z

    @property
    def results(self) -> tuple[New | None, ...]:
        return tuple(New(x.shape, x.dtype) if x is not None and self.fresh else None for x in self.written)

    @property
    def read(self) -> Tensors:
        return (self.a,)

    @property
    def shape(self) -> int:
        return 1 if self.z is None else 2

    def launch(self, plan: Plan, device: Device) -> Launch:
        programs = plan.grid(self.num_tokens, replace(device, max_programs=2**31 - 1))[0]
        return Launch(plan.function, programs, (self.num_tokens,), plan.constants(self.shape))

    def words(self, device: Device) -> tuple[object, ...]:
        return ("scaled", f"{self.shape} tensors", f"in place {len(self.in_place)}")

    def scratch(self, device: Device) -> int:
        return 4 * LANES * 4

    def synthetic(self, num_tokens: int, device: Device) -> tuple["ScaledCall", list[Sample]]:
        factor = self.a.cpu()
        if not factor.isfinite().all():
            raise NotNow("the factor is not finite")
        generator = torch.Generator("cpu").manual_seed(0)
        samples, made = [], {}
        for name, tensor in (("x", self.x), ("z", self.z)):
            if tensor is not None:
                before = torch.randn(num_tokens, LANES, generator=generator)
                made[name] = placed(before, (LANES, 1), tensor)
                samples.append(sample(name, before, factor))
        return replace(self, **made), samples


def sample(name: str, before: torch.Tensor, factor: torch.Tensor) -> Sample:
    """One product, rounded once: half a unit in the last place."""
    exact = before.double() * factor.double()
    return Sample(name, exact, exact.abs() * 2.0**-24 + 2.0**-149)


def call(num_tokens: int = 5, tensors: int = 2, fresh: bool = True, seed: int = 0) -> ScaledCall:
    generator = torch.Generator("cpu").manual_seed(seed)
    x, z = (torch.randn(num_tokens, LANES, generator=generator).to(DEVICE) for _ in range(2))
    return ScaledCall(x, z if tensors == 2 else None, torch.full((1,), 3.0).to(DEVICE), fresh)


def served(given: Call) -> Results | None:
    """As an operator's dispatch does."""
    layout = (type(given), *(tensor is not None and tensor.shape for tensor in given.memory()), given.results)
    cached = layouts.last[1] if layouts.last[0] == layout else layouts.look_up(layout)
    if cached is not None:
        written, read = (
            tuple(tensor if tensor is None else tensor.data_ptr() for tensor in tensors)
            for tensors in (given.written, given.read)
        )
        try:
            return cached(given.written or (None,) * len(given.results), written, read)
        except NotStarted:
            return None
    return first_call.serve(given, layout, "eager")
