"""Asking the compilers about many kernels, in two processes; each question once."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from scripts.census.kernels import Kernel
from tests.host_cann import bishengir, final_program
from tests.host_cann.bishengir import Compiler
from tests.host_cann.chips import Chip

PROCESSES = 2
TIMES = 20
EVERY = 20  # of the kernels, so many apart, all chips of a group are asked about


class Question(NamedTuple):
    compiler: Compiler
    chip: Chip
    linalg: str


class Answer(NamedTuple):
    """``bishengir.Compiled`` without the program."""

    notes: tuple[str, ...]
    error: str | None
    required_bits: int | None
    ub_bytes: int | None  # None if refused, and so is the next
    ub_available: int | None

    @property
    def clean(self) -> bool:
        return self.error is None and not self.notes


def ask(question: Question) -> Answer:
    compiled = bishengir.compile(question.linalg, question.compiler, question.chip)
    return Answer(compiled.notes, compiled.error, compiled.required_bits, compiled.ub_bytes, compiled.ub_available)


def linalg(work: tuple[Kernel, tuple[tuple[str, bool], ...]]) -> str:
    kernel, options = work
    return kernel.linalg(**dict(options))


def in_processes(name: str, function: Callable[[Any], Any], work: Iterable[Any]) -> dict[Any, Any]:
    """``{item: function(item)}`` for distinct items, saying on standard error how far it is."""
    items, began, answers = list(dict.fromkeys(work)), time.monotonic(), {}
    # Forked, so that what was made for the compilers before (folders for PATH) is this process's to remove.
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        for number, answer in enumerate(pool.imap(function, items), start=1):
            answers[items[number - 1]] = answer
            if number % 50 == 0 or number == len(items):
                seconds = time.monotonic() - began
                print(f"{name}: {number} of {len(items)}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return answers


def alike(compiler: Compiler, chips: Iterable[Chip], probe: str) -> list[list[Chip]]:
    """Groups of chips that the compiler describes in the same words, numbers of cores aside; ``probe`` must compile."""
    groups: dict[str, list[Chip]] = {}
    for chip in chips:
        compiled = bishengir.compile(probe, compiler, chip)
        if compiled.program is None:
            raise RuntimeError(f"{compiler} for {chip.soc_name} refuses the first kernel: {compiled.error}")
        groups.setdefault(final_program.target(compiled.program), []).append(chip)
    return list(groups.values())


def answers_of(
    groups: dict[Compiler, list[list[Chip]]], texts: list[str]
) -> tuple[dict[Question, Answer], dict[str, list[str]]]:
    """The answer to every question whose chip leads its group; and what came of asking the group's other chips about
    every so many texts."""
    pairs = [(compiler, group) for compiler, several in groups.items() for group in several]
    questions = [Question(compiler, group[0], text) for text in texts for compiler, group in pairs]
    again = {
        Question(compiler, chip, text): Question(compiler, group[0], text)
        for compiler, group in pairs
        for chip in group[1:]
        for text in texts[::EVERY]
    }
    print(f"{len(questions)} questions, and {len(again)} for the other chips of a group", file=sys.stderr)
    answers = in_processes("compiled", ask, [*questions, *again])
    found: dict[str, list[str]] = {"as the first": [], "as the first when asked again": [], "never so": []}
    for other, first in again.items():
        what = f"{other.compiler}: {first.chip.name} {answers[first]}, {other.chip.name} {answers[other]}"
        same = answers[other] == answers[first]
        kind = (
            "as the first" if same else "as the first when asked again" if varies(first, answers[other]) else "never so"
        )
        found[kind].append(what)
    return answers, found


def varies(question: Question, answer: Answer) -> bool:
    """Whether asking again gets that answer: 1.0.0 does not lay out every kernel the same way twice."""
    return any(ask(question) == answer for _ in range(TIMES))
