"""The first-use check of one plan: its kernel is run on synthetic data, and the result is compared with fp64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from rope_patch.kernels import runner
from rope_patch.kernels.launch import Kernel, Launch
from rope_patch.kernels.plan import SCRATCH_BYTES, Device, Plan
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import stream_getter
from rope_patch.serving.call import Call, InPlace
from rope_patch.serving.sample import NotNow, Sample

Outs = list[torch.Tensor | None]


class Wrong(Exception):
    """The kernel must not be used: its result is wrong, or it could not be checked within the memory allowed."""


def run(call: Call, shape: Any, plan: Plan, device: Device, in_place: InPlace) -> tuple[Kernel, Runner | None]:
    """Run ``plan`` on synthetic tensors: two full tiles and a tail if SCRATCH_BYTES allow, at least one full tile.

    Returns the kernel, and its own launcher if one was found and is right too.

    Raises:
        Wrong: the kernel is not right when Triton starts it, or one tile takes more than SCRATCH_BYTES.
        NotNow: the kernel was not started.
        Exception: whatever compiling or starting the kernel raises.
    """
    per_token, full = call.scratch(device, in_place), plan.block_tokens
    num_tokens = next((n for n in (2 * full + 1, full + 1, full) if n * per_token <= SCRATCH_BYTES), 0)
    if not num_tokens:
        raise Wrong(
            f"a tile of {full} tokens takes more than the {SCRATCH_BYTES} bytes that its first-use check may take"
        )
    try:
        call, samples = call.synthetic(num_tokens, device, in_place)
        outs: Outs = [None if at else _unwritten(one) for one, at in zip(samples, in_place, strict=False)]
    except NotNow:
        raise
    except Exception as error:
        raise NotNow(f"{type(error).__name__}: {str(error).strip()[-300:]}") from error
    outputs = (*outs, None)[:2]
    launch, memory = call.launch(shape, plan, device), call.memory(*outputs)
    start = partial(launch.on, call, *outputs)
    found = runner.recorded(start, launch.programs, (*memory, *launch.numbers))
    if found and _is_right(found, launch, memory, samples, outs):
        return launch.kernel, found
    if fault := _fault(samples, outs, start):
        raise Wrong(fault)
    return launch.kernel, None


def _is_right(found: Runner, launch: Launch, memory: tuple[Any, ...], samples: list[Sample], outs: Outs) -> bool:
    addresses = [tensor if tensor is None else tensor.data_ptr() for tensor in memory]
    device = samples[0].tensor.device
    stream = stream_getter(device.type, found.queued)(device.index)
    try:
        return not _fault(samples, outs, lambda: found.start(launch.programs, stream, (*addresses, *launch.numbers)))
    except Exception:  # then the kernel is started through Triton
        return False


def _fault(samples: list[Sample], outs: Outs, start: Callable[[], object]) -> str | None:
    """Write the tensors with ``start`` and compare every element with fp64. Says what is wrong, or None."""
    for one, out in zip(samples, outs, strict=True):
        one.tensor.copy_(one.before)
        if out is not None:
            out.fill_(float("nan"))
    start()
    for one, out in zip(samples, outs, strict=True):
        after = (one.tensor if out is None else out).cpu().double()
        # Written so that NaN counts as wrong.
        if wrong := int((~((after - one.exact).abs() <= one.bound)).sum()):
            return f"first-use check failed: {wrong} of {one.exact.numel()} {one.name} lanes wrong"
    return None


def _unwritten(one: Sample) -> torch.Tensor:
    return torch.full(one.before.shape, float("nan"), dtype=one.before.dtype, device=one.tensor.device)
