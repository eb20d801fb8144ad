"""One kernel run on synthetic data and compared: what the first-use check does to a plan."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from rope_patch.kernels import runner
from rope_patch.kernels.launch import Call, Heads, Kernel, Launch, memory, planned, stride_unit
from rope_patch.kernels.plan import SCRATCH_BYTES, Device, Plan, Shape
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import stream_getter
from rope_patch.trust import reference

ALIGNMENT = 16  # bytes; Triton compiles one kernel for pointers that are multiples of it, and another for others

WORD = 4


class Wrong(Exception):
    """The kernel ran, and its result is not to be used."""


class NotNow(Exception):
    """The kernel could not be tried, for a reason that is none of its own: no memory for the scratch, say."""


class Trial(NamedTuple):
    """Synthetic q or k, what it was before, and where its rotation goes (None: in place)."""

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
    """Run ``plan`` on synthetic tensors: two full tiles and a tail where the scratch allows, one full tile at least.

    Returns which kernel it is that was right, and the kernel's own launcher, if that starts it rightly too.

    Raises:
        Wrong: what Triton starts does not rotate rightly.
        NotNow: it was not even started.
        Exception: whatever compiling or starting it raises.
    """
    # What makes it the kernel that will serve: strides that are multiples of as much, in place or not.
    unit = stride_unit(call, device)
    head_stride = -(-call.head_size // unit) * unit
    copies = 1 if query_in_place and key_in_place else 2
    rows = sum(copies * heads.num_heads + 1 for heads in _both(call))
    per_token = rows * head_stride * call.query.tensor.element_size()
    full = plan.block_tokens
    num_tokens = next((n for n in (2 * full + 1, full + 1, full) if n * per_token <= SCRATCH_BYTES), 0)
    if not num_tokens:
        raise Wrong(f"a tile of {full} tokens takes more than the {SCRATCH_BYTES} bytes that its first-use check may")
    try:
        generator = torch.Generator("cpu").manual_seed(0)  # not the global one: the model's draws stay what they were
        spread = torch.linspace(call.cos_sin_cache.shape[0] - 1, 0, num_tokens, dtype=torch.float64, device="cpu")
        positions = _placed(spread.long().to(call.positions.dtype), (1,), call.positions)
        apart = head_stride + (unit < device.stride_unit)
        size = num_tokens, call.head_size
        query = _trial("query", call.query, size, head_stride, 0 if query_in_place else apart, generator)
        key = call.key and _trial("key", call.key, size, head_stride, 0 if key_in_place else apart, generator)
        # Copying to the host waits for the device: what failed there before is not the kernel's fault.
        cache_rows = call.cos_sin_cache.index_select(0, positions).cpu()
    except Exception as error:
        raise NotNow(f"{type(error).__name__}: {str(error).strip()[-300:]}") from error
    if not cache_rows.isfinite().all():  # asleep, or not loaded yet: no kernel is to be judged by that
        raise NotNow("the cache holds values that are not finite")
    call = call._replace(positions=positions, query=query.heads, key=key and key.heads)
    work, outputs = planned(call, shape, plan, device), (query.out, key and key.out)
    arguments = *memory(call, *outputs), *work.numbers
    found = runner.recorded(lambda: work.on(call, *outputs), work.programs, arguments)
    if found and _is_right(found, call, work, cache_rows, query, key):
        return work.kernel, found
    fault = _fault(call, cache_rows, query, key, lambda: work.on(call, *outputs))
    if fault:
        raise Wrong(fault)
    return work.kernel, None


def _is_right(
    found: Runner, call: Call, work: Launch, cache_rows: torch.Tensor, query: Trial, key: Trial | None
) -> bool:
    arguments = memory(call, query.out, key and key.out)
    addresses = [tensor if tensor is None else tensor.data_ptr() for tensor in arguments]
    device = call.query.tensor.device
    stream = stream_getter(device.type, found.queued)(device.index)
    try:
        return not _fault(
            call, cache_rows, query, key, lambda: found.start(work.programs, stream, (*addresses, *work.numbers))
        )
    except Exception:  # Triton's own way remains
        return False


def _fault(
    call: Call, cache_rows: torch.Tensor, query: Trial, key: Trial | None, start: Callable[[], object]
) -> str | None:
    """What is wrong with the trials' rotation by ``start``, every lane compared with fp64."""
    for trial in filter(None, (query, key)):
        trial.renew()
    start()
    for trial in filter(None, (query, key)):
        after = trial.heads.tensor if trial.out is None else trial.out
        found = reference.compared(trial.before, after, cache_rows, call.rotary_dim, call.is_neox_style)
        if wrong := found.wrong():
            return f"first-use check failed: {wrong} of {found.error.numel()} {trial.name} lanes wrong"
    return None


def _both(call: Call) -> list[Heads]:
    return [heads for heads in (call.query, call.key) if heads]


def _trial(
    name: str, heads: Heads, shape: tuple[int, int], head_stride: int, apart: int, generator: torch.Generator
) -> Trial:
    """Random heads of ``shape``, tokens and lanes of a head; their rows so many lanes apart, or in place for none."""
    num_tokens, head_size = shape
    strides = (heads.num_heads * head_stride + apart, head_stride, 1)
    values = torch.randn(num_tokens, heads.num_heads, head_size, generator=generator, device="cpu")
    values = values.to(heads.tensor.dtype)
    tensor = _placed(values, strides, heads.tensor)
    out = torch.full(values.shape, float("nan"), dtype=values.dtype, device=tensor.device) if apart else None
    return Trial(name, Heads(tensor, heads.num_heads, strides[0], strides[1]), values, out)


def _placed(values: torch.Tensor, strides: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """``values`` on ``like``'s device, with these strides, and no better aligned than ``like`` is."""
    # Pairs of 16 bits that are whole words stay so: the kernel that will serve is the one to check.
    whole_words = like.data_ptr() % WORD == 0
    offset = 0 if like.data_ptr() % ALIGNMENT == 0 else max(1, WORD // values.element_size()) if whole_words else 1
    extent = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    memory = torch.empty(offset + extent, dtype=values.dtype, device=like.device)
    placed = memory.as_strided(values.shape, strides, offset)
    placed.copy_(values)
    return placed
