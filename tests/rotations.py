"""Build rotations for tests, in vLLM's tensor layouts with memory around them, and compare results with fp64."""

from dataclasses import dataclass, replace

import torch

from rope_patch.kernels.launch import INTERPRETED, device_facts
from rope_patch.kernels.plan import Plan
from rope_patch.kernels.planning import make_plan
from rope_patch.operators import reference
from rope_patch.operators.arguments import parse
from rope_patch.operators.rotation import KERNELS, Rotation, RotationCall
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
class Case:
    """Arguments of one rotation. q and k are views of ``storage``, which includes the unused lanes."""

    positions: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor | None
    cache: torch.Tensor
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    storage: torch.Tensor
    axes: str = ""

    @property
    def asked(self) -> Rotation:
        return Rotation(self.head_size, self.rotary_dim, self.is_neox_style, self.axes)

    @property
    def num_tokens(self) -> int:
        return self.positions.numel() // (3 if self.axes else 1)

    def call(self) -> RotationCall:
        call = parse(self.positions, self.query, self.key, self.cache, self.asked)
        assert isinstance(call, RotationCall), call
        return call

    def heads(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(self.num_tokens, -1, self.head_size).cpu()


def rotation(
    num_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    rotary_dim: int,
    *,
    is_neox_style: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    cache_dtype: torch.dtype | None = None,
    positions_dtype: torch.dtype = torch.int64,
    strided: bool = True,
    max_position: int = 97,
    seed: int = 0,
    axes: str = "",
) -> Case:
    """Random q and k: views of one qkv tensor, or contiguous copies if not ``strided``. No key for 0 key heads.

    With ``axes``, positions are views too: the first tokens of three longer rows.
    """
    generator = torch.Generator().manual_seed(seed)
    q_width, k_width = num_heads * head_size, num_kv_heads * head_size
    row = q_width + 2 * k_width + PADDING
    storage = torch.randn(num_tokens, row, generator=generator).to(DEVICE, dtype)
    query, key = storage[:, :q_width], storage[:, q_width : q_width + k_width]
    if not strided:
        query, key = query.clone(), key.clone()
    angles = torch.rand(max_position, rotary_dim // 2, generator=generator) * 6.3
    cache = torch.cat((angles.cos(), angles.sin()), -1).to(DEVICE, cache_dtype or dtype)
    shape = (3, num_tokens + 5) if axes else (num_tokens,)
    positions = torch.randint(0, max_position, shape, generator=generator).to(DEVICE, positions_dtype)
    positions = positions[..., :num_tokens]
    return Case(
        positions, query, key if num_kv_heads else None, cache, head_size, rotary_dim, is_neox_style, storage, axes
    )


def assert_rotated(case: Case, before: torch.Tensor, after: torch.Tensor) -> None:
    """Every lane of ``after`` is ``before`` rotated, within rounding; lanes that are not rotated are bit-identical."""
    # Select rows first, since a cache may be too long to copy.
    rows = reference.rows_of(case.positions if case.axes else case.positions.flatten(), case.cache, case.axes).cpu()
    found = reference.compared(case.heads(before), case.heads(after), rows, case.asked)
    error, excess = found.error, found.error - found.bound
    assert not excess.isnan().any(), "some lanes were not written"
    worst = int(excess.argmax())
    assert excess.max() <= 0, f"lane {worst}: off by {error.flatten()[worst]:.3g}, {excess.max():.3g} too much"


def launch(
    call: RotationCall, query_out: torch.Tensor | None, key_out: torch.Tensor | None, plan: Plan | None = None
) -> None:
    """Rotate q and k with the kernel, started through Triton: into the contiguous ``*_out`` tensors, in place for None.

    Starts nothing for zero tokens. ``plan`` defaults to the one for the call's shape.
    """
    num_tokens = call.num_tokens
    if num_tokens:
        device, shape = device_facts(call.device), replace(call.shape, fresh=(query_out, key_out) != (None, None))
        plan = plan or make_plan(KERNELS, shape, num_tokens, device)
        call.launch(plan, device).on(call, query_out, key_out)
