"""The first-use check of one plan: its kernel is run on synthetic data, and the result is compared with fp64."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations

import torch

from rope_patch.kernels import runner
from rope_patch.kernels.launch import Launch
from rope_patch.kernels.plan import SCRATCH_BYTES, Constant, Device, Plan
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import stream_getter
from rope_patch.serving.call import Call
from rope_patch.serving.sample import NotNow, Sample

FAILED = "first-use check failed"
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Start = Callable[[Launch], object]


class Wrong(Exception):
    """The kernel must not be used: its result is wrong, or it could not be checked within the memory allowed."""


class Unsteady(Wrong):
    """Its results differ from run to run. Smaller tiles that pass would prove nothing."""


class Trial:
    """A synthetic call, on the device, and what it is compared with.

    Raises:
        NotNow: it cannot be made now.
    """

    def __init__(self, call: Call, num_tokens: int, device: Device) -> None:
        try:
            self.call, self.samples = call.synthetic(num_tokens, device)
            self.new = tuple(
                new and torch.full(new.shape, torch.nan, dtype=new.dtype, device=call.device)
                for new in self.call.results
            )
            # Copying to the host waits for the device, so an earlier fault of the device is raised here.
            self.before = [_copied(tensor) for tensor in self.call.in_place]
        except NotNow:
            raise
        except Exception as error:
            raise NotNow(f"{type(error).__name__}: {str(error).strip()[-300:]}") from error

    def check(self, launches: list[Launch], start: Start) -> None:
        """Run them one after the other, and compare every element: with that of another run of the same launch, and
        with fp64.

        Raises:
            Wrong: not all are right.
        """
        runs = [self._results(launch, start) for launch in launches]
        for (launch, was), (again, now) in combinations(zip(launches, runs, strict=True), 2):
            for one, before, after in zip(self.samples, was, now, strict=True):
                if launch == again and (changed := int((_bits(before) != _bits(after)).sum())):
                    lanes = f"{changed} of {before.numel()} {one.name} lanes"
                    raise Unsteady(f"{FAILED}: different from run to run: {lanes}")
        for results in runs:
            for one, result in zip(self.samples, results, strict=True):
                if wrong := _wrong(one, result):
                    raise Wrong(f"{FAILED}: {wrong} of {one.exact.numel()} {one.name} lanes wrong")

    def _results(self, launch: Launch, start: Start) -> list[torch.Tensor]:
        """On the host. Whatever the kernel does not write is what it was, or NaN."""
        for tensor, before in zip(self.call.in_place, self.before, strict=True):
            tensor.copy_(before)
        for new in self.new:
            if new is not None:
                new.fill_(torch.nan)
        start(launch)
        return [_copied(result) for result in self.call.answer(*self.new) if result is not None]


def run(call: Call, plan: Plan, device: Device) -> tuple[dict[str, Constant], Runner | None]:
    """Run ``plan`` on synthetic tensors: two full tiles and a tail if SCRATCH_BYTES allow, at least one full tile.

    An operator that asks for several runs gets every second one of them on one core, which takes all tiles in turn.

    Returns the kernel's constants, and its own launcher if one was found and is right too.

    Raises:
        Wrong: the kernel is not right when Triton starts it, or one tile takes more than SCRATCH_BYTES.
        NotNow: the kernel was not started.
        Exception: whatever compiling or starting the kernel raises.
    """
    per_token, full = call.scratch(device), plan.block_tokens
    num_tokens = next((n for n in (2 * full + 1, full + 1, full) if n * per_token <= SCRATCH_BYTES), 0)
    if not num_tokens:
        raise Wrong(
            f"a tile of {full} tokens takes more than the {SCRATCH_BYTES} bytes that its first-use check may take"
        )
    trial = Trial(call, num_tokens, device)
    call, memory = trial.call, trial.call.memory(*trial.new)
    cores = device, replace(device, max_programs=1)
    launches = [call.launch(plan, cores[number % 2]) for number in range(call.runs)]
    launch = launches[0]
    found = runner.recorded(partial(launch.on, call, *trial.new), launch.programs, (*memory, *launch.numbers))
    if found:
        addresses = [tensor if tensor is None else tensor.data_ptr() for tensor in memory]
        stream = stream_getter(call.device.type, found.queued)(call.device.index)
        try:
            trial.check(launches, lambda one: found.start(one.programs, stream, (*addresses, *one.numbers)))
            return launch.constants, found
        except Unsteady:  # it is the same kernel
            raise
        except Exception:  # then the kernel is started through Triton
            pass
    trial.check(launches, lambda one: one.on(call, *trial.new))
    return launch.constants, None


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """On the host, contiguous."""
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _wrong(one: Sample, result: torch.Tensor) -> int:
    """How many elements. Written so that NaN counts as wrong."""
    return int((~((result.double().reshape(one.exact.shape) - one.exact).abs() <= one.bound)).sum())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(BITS[tensor.element_size()])
