"""Measures one shape, native against patched: who serves it, whether both are right, and how long each takes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

import rope_patch
from rope_patch.cli import native, synthetic, timing
from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.case import Case, examine
from rope_patch.cli.definition import Definition
from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.timing import Time
from rope_patch.cli.worker import Embedding, Worker

STATES: dict[str, Callable[[], None]] = {"native": rope_patch.disable, "patched": rope_patch.enable}


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int  # in each, native and patched take turns
    calls: int  # in a round, with fewer than 512 tokens
    calls_of_many: int  # in a round, with 512 tokens and more


ON_DEVICE, INTERPRETED = Effort(7, 50, 20), Effort(2, 1, 1)


class Times(NamedTuple):
    """How long one call takes, native or patched."""

    host: Time | None
    device: Time | None  # None: there is no device to measure
    device_by: str | None  # how it was measured: ``timing.REPLAYED`` or ``timing.WITH_HOST``


class Row(NamedTuple):
    """One shape with one number of tokens."""

    rope: RopeConfig
    tokens: int
    embedding: str  # vLLM's class
    serves: str  # under this process's setting: "kernel" or "native"
    natively: str  # vLLM's class and method, and the operators in it that rotate
    reason: str | None  # why it is native
    native: Times | None  # None: it cannot be run
    patched: Times | None  # of the kernel, which is called directly where native serves
    remarks: list[str]
    fault: str | None  # why the kernel is wrong, or could not be run


def measure(rope: RopeConfig, tokens: Sequence[int], dtype: str, worker: Worker) -> list[Row]:
    """A row for each number of tokens. Leaves rope_patch enabled.

    Raises:
        CannotAnswer: vLLM cannot build the rotary embedding, its forward context cannot be set up, or the patch cannot
            be undone.
    """
    kind = getattr(torch, dtype)
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.inference_mode():
        try:
            embedding = worker.build(rope, kind)
            definition = Definition.of_module(embedding.module, rope)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise CannotAnswer(f"vLLM builds no rotary embedding for {rope.name}: {said}") from error
        cases = []
        try:
            for count in tokens:
                positions = synthetic.positions_of(rope, count, definition.rows, generator).to(worker.device)
                cases.append(Case(positions, *synthetic.inputs(rope, count, True, generator, kind, worker.device)))
            rope_patch.disable()
            natively = native.named(embedding.module, worker)  # in a step of its own
            for case in cases:
                case.natively = natively
                with worker.step(embedding.module, case.positions):
                    examine(case, rope, embedding, definition, worker)
            _take_turns(cases, embedding, worker)
        except CannotAnswer:
            raise
        except Exception as error:  # another release's worker, or too little memory
            raise CannotAnswer(f"{rope.name} cannot be measured here: {type(error).__name__}: {error}") from error
        finally:
            rope_patch.enable()
    return [_row(case, rope, embedding) for case in cases]


def _take_turns(cases: list[Case], embedding: Embedding, worker: Worker) -> None:
    """Measure in rounds, in which native and patched take turns."""
    effort = INTERPRETED if worker.device.type == "cpu" else ON_DEVICE
    for _ in range(effort.rounds):
        for name, enter in STATES.items():
            enter()
            for case in cases:
                if name not in case.functions:
                    continue
                calls = effort.calls_of_many if case.num_tokens >= 512 else effort.calls
                with worker.step(embedding.module, case.positions):
                    case.host.setdefault(name, []).append(timing.host_us(case.functions[name], calls, worker.device))
                    if worker.device.type == "cpu":
                        continue
                    if name not in case.repeated:
                        case.repeated[name] = timing.repeated(case.functions[name], calls, worker.device)
                    took = timing.device_us(case.repeated[name][0], calls, worker.device)
                    case.device.setdefault(name, []).append(took)


def _row(case: Case, rope: RopeConfig, embedding: Embedding) -> Row:
    def times(name: str) -> Times | None:
        if name not in case.functions:
            return None
        device = timing.over(case.device.get(name, []))
        return Times(timing.over(case.host[name]), device, case.repeated[name][1] if device else None)

    names = type(embedding.module).__name__, case.serves, case.natively, case.reason
    return Row(rope, case.num_tokens, *names, times("native"), times("patched"), case.remarks, case.fault)
