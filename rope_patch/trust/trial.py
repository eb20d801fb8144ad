"""The first-use check of one plan: its kernel is run on synthetic data, and the result is compared with fp64."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from rope_patch.kernels import runner
from rope_patch.kernels.call import Call, Heads, Shape, planned
from rope_patch.kernels.launch import ALIGNMENT, Kernel, Launch
from rope_patch.kernels.plan import SCRATCH_BYTES, Device, Plan
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import stream_getter
from rope_patch.trust import reference

WORD = 4  # bytes


class Wrong(Exception):
    """The kernel must not be used: its result is wrong, or it could not be checked within the memory allowed."""


class NotNow(Exception):
    """The kernel could not be tried for a reason other than itself, such as no memory for the synthetic tensors."""


class Synthetic(NamedTuple):
    """Synthetic q or k, its values before the rotation, and the output tensor (None: in place)."""

    name: str
    heads: Heads
    before: torch.Tensor
    out: torch.Tensor | None

    def renew(self) -> None:
        self.heads.tensor.copy_(self.before)
        if self.out is not None:
            self.out.fill_(float("nan"))


def run(
    call: Call, shape: Shape, plan: Plan, device: Device, query_in_place: bool, key_in_place: bool
) -> tuple[Kernel, Runner | None]:
    """Run ``plan`` on synthetic tensors: two full tiles and a tail if SCRATCH_BYTES allow, at least one full tile.

    Returns the kernel, and its own launcher if one was found and rotates rightly too.

    Raises:
        Wrong: the kernel does not rotate rightly when Triton starts it, or one tile takes more than SCRATCH_BYTES.
        NotNow: the kernel was not started.
        Exception: whatever compiling or starting the kernel raises.
    """
    # The synthetic tensors must select the kernel that will serve: their strides are multiples of the same unit.
    unit = call.stride_unit(device)
    head_stride = -(-call.rotation.head_size // unit) * unit
    copies = 1 if query_in_place and key_in_place else 2
    rows = sum(copies * heads.num_heads + 1 for heads in _both(call))
    per_token = rows * head_stride * call.query.tensor.element_size()
    full = plan.block_tokens
    num_tokens = next((n for n in (2 * full + 1, full + 1, full) if n * per_token <= SCRATCH_BYTES), 0)
    if not num_tokens:
        raise Wrong(
            f"a tile of {full} tokens takes more than the {SCRATCH_BYTES} bytes that its first-use check may take"
        )
    try:
        generator = torch.Generator("cpu").manual_seed(0)  # the global one's random numbers are the model's
        positions = _positions(call, num_tokens)
        apart = head_stride + (unit < device.stride_unit)
        size = num_tokens, call.rotation.head_size
        query = _synthetic("query", call.query, size, head_stride, 0 if query_in_place else apart, generator)
        key = call.key and _synthetic("key", call.key, size, head_stride, 0 if key_in_place else apart, generator)
        # Copying to the host waits for the device, so an earlier fault of the device is raised here, before the launch.
        cache_rows = reference.rows_of(positions, call.cos_sin_cache, call.rotation.axes).cpu()
    except Exception as error:
        raise NotNow(f"{type(error).__name__}: {str(error).strip()[-300:]}") from error
    if not cache_rows.isfinite().all():  # vLLM sleeps, or has not loaded the model yet
        raise NotNow("the cache holds values that are not finite")
    call = call._replace(positions=positions, query=query.heads, key=key and key.heads)
    launch, outputs = planned(call, shape, plan, device), (query.out, key and key.out)
    arguments = *call.memory(*outputs), *launch.numbers
    found = runner.recorded(lambda: launch.on(call, *outputs), launch.programs, arguments)
    if found and _is_right(found, call, launch, cache_rows, query, key):
        return launch.kernel, found
    fault = _fault(call, cache_rows, query, key, lambda: launch.on(call, *outputs))
    if fault:
        raise Wrong(fault)
    return launch.kernel, None


def _is_right(
    found: Runner, call: Call, launch: Launch, cache_rows: torch.Tensor, query: Synthetic, key: Synthetic | None
) -> bool:
    arguments = call.memory(query.out, key and key.out)
    addresses = [tensor if tensor is None else tensor.data_ptr() for tensor in arguments]
    device = call.query.tensor.device
    stream = stream_getter(device.type, found.queued)(device.index)
    try:
        return not _fault(
            call, cache_rows, query, key, lambda: found.start(launch.programs, stream, (*addresses, *launch.numbers))
        )
    except Exception:  # then the kernel is started through Triton
        return False


def _fault(
    call: Call, cache_rows: torch.Tensor, query: Synthetic, key: Synthetic | None, start: Callable[[], object]
) -> str | None:
    """Rotate the synthetic tensors with ``start`` and compare every lane with fp64. Says what is wrong, or None."""
    for synthetic in filter(None, (query, key)):
        synthetic.renew()
    start()
    asked = call.rotation
    for synthetic in filter(None, (query, key)):
        after = synthetic.heads.tensor if synthetic.out is None else synthetic.out
        found = reference.compared(synthetic.before, after, cache_rows, asked.rotary_dim, asked.is_neox_style)
        if wrong := found.wrong():
            return f"first-use check failed: {wrong} of {found.error.numel()} {synthetic.name} lanes wrong"
    return None


def _positions(call: Call, num_tokens: int) -> torch.Tensor:
    """Spread over the cache. Those of the three axes of a token differ, since equal ones would prove nothing."""
    last = call.cos_sin_cache.shape[0] - 1
    spread = torch.linspace(last, 0, num_tokens, dtype=torch.float64, device="cpu").long().to(call.positions.dtype)
    if not call.rotation.axes:
        return _placed(spread, (1,), call.positions)
    rows = torch.stack([(spread + last * axis // 3) % (last + 1) for axis in range(3)])
    return _placed(rows, (num_tokens + 1, 1), call.positions)


def _both(call: Call) -> list[Heads]:
    return [heads for heads in (call.query, call.key) if heads]


def _synthetic(
    name: str, heads: Heads, shape: tuple[int, int], head_stride: int, apart: int, generator: torch.Generator
) -> Synthetic:
    """Random heads; ``shape`` is the number of tokens and the head size.

    ``apart`` is the gap between two tokens' rows, in lanes; 0 means contiguous and rotated in place.
    """
    num_tokens, head_size = shape
    strides = (heads.num_heads * head_stride + apart, head_stride, 1)
    values = torch.randn(num_tokens, heads.num_heads, head_size, generator=generator, device="cpu")
    values = values.to(heads.tensor.dtype)
    tensor = _placed(values, strides, heads.tensor)
    out = torch.full(values.shape, float("nan"), dtype=values.dtype, device=tensor.device) if apart else None
    return Synthetic(name, Heads(tensor, heads.num_heads, strides[0], strides[1]), values, out)


def _placed(values: torch.Tensor, strides: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """``values`` on ``like``'s device, with these strides, and no better aligned than ``like`` is."""
    # If ``like`` begins at a whole word, so must this: the plan for GPT-J pairs depends on it.
    whole_words = like.data_ptr() % WORD == 0
    offset = 0 if like.data_ptr() % ALIGNMENT == 0 else max(1, WORD // values.element_size()) if whole_words else 1
    extent = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    memory = torch.empty(offset + extent, dtype=values.dtype, device=like.device)
    placed = memory.as_strided(values.shape, strides, offset)
    placed.copy_(values)
    return placed
