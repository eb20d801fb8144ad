"""One shape, native against patched: what serves it here, whether both are right, and how long each takes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

import rope_patch
from rope_patch.cli import timing, verify
from rope_patch.cli.answer import Fault
from rope_patch.cli.case import Case, examine
from rope_patch.cli.shapes import Shape
from rope_patch.cli.timing import Time
from rope_patch.cli.worker import Embedding, Worker

STATES: dict[str, Callable[[], None]] = {"native": rope_patch.disable, "patched": rope_patch.enable}


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int  # native and patched take turns
    calls: int  # in a round
    calls_of_many: int  # in a round, of calls of 512 tokens and more


ON_DEVICE, INTERPRETED = Effort(7, 50, 20), Effort(2, 1, 1)


class Times(NamedTuple):
    """Of one call, by one of the two."""

    host: Time | None
    device: Time | None  # None: nothing that could say
    device_by: str | None  # how: ``timing.REPLAYED`` or ``timing.WITH_HOST``


class Row(NamedTuple):
    """One shape with one number of tokens."""

    shape: Shape
    tokens: int
    embedding: str  # vLLM's class
    serves: str  # under this process's setting: "kernel" or "native"
    reason: str | None  # why native
    native: Times | None  # None: it cannot be run
    patched: Times | None  # the kernel; called directly where native serves
    remarks: list[str]
    fault: str | None  # why the kernel is wrong, or could not be run


def of_shape(shape: Shape, tokens: Sequence[int], dtype: str, worker: Worker) -> list[Row]:
    """A row for each number of tokens; leaves rope_patch enabled.

    Raises:
        Fault: vLLM has no rotary embedding for the shape, or cannot be brought to a forward pass, or what is patched
            cannot be taken back.
    """
    kind = getattr(torch, dtype)
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.inference_mode():
        try:
            embedding = worker.build(shape, kind)
        except Exception as error:
            raise Fault(f"vLLM builds no rotary embedding for {shape.name}: {type(error).__name__}: {error}") from error
        cases = []
        try:
            for count in tokens:
                rows = embedding.module.cos_sin_cache.shape[0]
                positions = torch.randint(0, rows, (count,), generator=generator).to(worker.device)
                cases.append(Case(positions, *verify.inputs(shape, count, True, generator, kind, worker.device)))
            for case in cases:
                with worker.step(embedding.module, case.positions):
                    examine(case, shape, embedding)
            _measure(cases, embedding, worker)
        except Fault:
            raise
        except Exception as error:  # around the calls: another arrangement of a release's worker, too little memory
            raise Fault(f"{shape.name} cannot be measured here: {type(error).__name__}: {error}") from error
        finally:
            rope_patch.enable()
    return [_row(case, shape, embedding) for case in cases]


def _measure(cases: list[Case], embedding: Embedding, worker: Worker) -> None:
    """Rounds in which native and patched take turns."""
    effort = INTERPRETED if worker.device.type == "cpu" else ON_DEVICE
    for _ in range(effort.rounds):
        for name, enter in STATES.items():
            enter()
            for case in cases:
                if name not in case.works:
                    continue
                calls = effort.calls_of_many if len(case.positions) >= 512 else effort.calls
                with worker.step(embedding.module, case.positions):
                    case.host.setdefault(name, []).append(timing.host_us(case.works[name], calls, worker.device))
                    if worker.device.type == "cpu":
                        continue
                    if name not in case.repeated:
                        case.repeated[name] = timing.repeated(case.works[name], calls, worker.device)
                    took = timing.device_us(case.repeated[name][0], calls, worker.device)
                    case.device.setdefault(name, []).append(took)


def _row(case: Case, shape: Shape, embedding: Embedding) -> Row:
    def times(name: str) -> Times | None:
        if name not in case.works:
            return None
        device = timing.over(case.device.get(name, []))
        return Times(timing.over(case.host[name]), device, case.repeated[name][1] if device else None)

    names = type(embedding.module).__name__, case.serves, case.reason
    return Row(shape, len(case.positions), *names, times("native"), times("patched"), case.remarks, case.fault)
