"""A second toy operator: packed rows of three parts, each part doubled into a new tensor of its own. It has no tensor
that it writes in place, and its first-use check runs each kernel several times."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.plan import Constant, Device, Plan
from rope_patch.serving.call import Call, New, Tensors
from rope_patch.serving.sample import Sample, placed
from tests.rotations import DEVICE
from tests.serving import scaled

LANES = 16
TILE = 4  # tokens
PARTS = ("x", "y", "z")


@triton.jit(do_not_specialize=["num_tokens", "each", "stride"])
def split_kernel(x, y, z, packed, factor, num_tokens, each, stride, LANES: tl.constexpr, TILE: tl.constexpr):
    a = tl.load(factor)
    for tile in range(tl.program_id(0) * each, tl.program_id(0) * each + each):
        token = tile * TILE + tl.arange(0, TILE)
        mask = (token < num_tokens)[:, None] & (tl.arange(0, LANES) < LANES)[None, :]
        row = packed + token[:, None] * stride + tl.arange(0, LANES)[None, :]
        out = token[:, None] * LANES + tl.arange(0, LANES)[None, :]
        tl.store(x + out, tl.load(row, mask=mask, other=0.0) * a, mask=mask)
        tl.store(y + out, tl.load(row + LANES, mask=mask, other=0.0) * a, mask=mask)
        tl.store(z + out, tl.load(row + 2 * LANES, mask=mask, other=0.0) * a, mask=mask)


@dataclass(frozen=True)
class Split(Plan):
    """Tiles of so many tokens, some of them for each program."""

    function = split_kernel
    powers_of_two = not DEVICE.startswith("npu")
    units = 1

    block_tokens: int

    @classmethod
    def candidates(cls, shape: str, device: Device) -> Iterable["Split"]:
        return (cls(tokens) for tokens in (1, TILE))

    def constants(self, shape: str, stride_unit: int = 1) -> dict[str, Constant]:
        return {"LANES": LANES, "TILE": self.block_tokens}


@dataclass(frozen=True)
class SplitCall(Call):
    packed: torch.Tensor  # [num_tokens, 3 * LANES], rows contiguous, float32
    factor: torch.Tensor  # [1]

    name = "splitting"
    kernels = (Split,)
    runs = 4

    @property
    def num_tokens(self) -> int:
        return len(self.packed)

    @property
    def results(self) -> tuple[New | None, ...]:
        return (New((self.num_tokens, LANES), torch.float32),) * 3

    @property
    def read(self) -> Tensors:
        return self.packed, self.factor

    @property
    def shape(self) -> str:
        return "split"

    def launch(self, plan: Plan, device: Device) -> Launch:
        programs, each = plan.grid(self.num_tokens, device)
        numbers = self.num_tokens, each, self.packed.stride(0)
        return Launch(plan.function, programs, numbers, plan.constants(self.shape))

    def words(self, device: Device) -> tuple[object, ...]:
        return ("split", self.packed.dtype)

    def scratch(self, device: Device) -> int:
        return 6 * LANES * 4

    def synthetic(self, num_tokens: int, device: Device) -> tuple["SplitCall", list[Sample]]:
        values = torch.randn(num_tokens, 3 * LANES, generator=torch.Generator("cpu").manual_seed(0))
        packed = placed(values, (self.packed.stride(0), 1), self.packed)
        parts = zip(PARTS, values.split(LANES, -1), strict=True)
        return replace(self, packed=packed), [scaled.sample(name, part, self.factor.cpu()) for name, part in parts]


def call(num_tokens: int = 5, seed: int = 0) -> SplitCall:
    """Rows lie apart, as those of a part of a larger tensor do."""
    values = torch.randn(num_tokens, 4 * LANES, generator=torch.Generator("cpu").manual_seed(seed))
    return SplitCall(values.to(DEVICE)[:, : 3 * LANES], torch.full((1,), 2.0).to(DEVICE))
