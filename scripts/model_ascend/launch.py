"""The time of a launch: its programs on the cores, all of them sharing HBM, after the start."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from scripts.model_ascend.program import Program
from scripts.model_ascend.queues import IN, OUT, SCALAR, VECTOR
from scripts.model_ascend.rates import Rates
from scripts.model_ascend.regions import Node, NotUnderstood, tree
from scripts.model_ascend.vector import refuse_lone_strides

PLACES = 6  # the last arguments: the grid's three sizes, then the program's place in it


@dataclass(frozen=True)
class Launch:
    """A compiled kernel, its integer arguments in order, and how many programs do the same as which one.

    ``alike`` maps a program to the number of programs that take as long as it, itself included.
    """

    linalg: str
    integers: tuple[int, ...]
    alike: Mapping[int, int]

    @property
    def programs(self) -> int:
        return sum(self.alike.values())


@dataclass(frozen=True)
class Time:
    """Modelled. ``cycles`` are those of the slowest program; ``busy`` says how long each of its queues was at work."""

    us: float
    start_us: float
    work_us: float
    hbm_us: float
    bytes_in: int
    bytes_out: int
    busy: Mapping[str, float]


@functools.lru_cache(maxsize=64)
def _read(linalg: str) -> tuple[Node, frozenset[str]]:
    function = tree(linalg)
    refuse_lone_strides(function.regions[0])
    filled = re.findall(r"linalg\.fill [^>]*outs\((%\w+) : memref", linalg)
    return function, frozenset(filled)


def walk(launch: Launch, program: int, rates: Rates) -> Program:
    """One program, walked to its end."""
    function, masked = _read(launch.linalg)
    walked = Program(rates, masked)
    kinds = dict(re.findall(r"(%arg\d+): (i\d+|memref)", function.text))
    if launch.programs > rates.vector_cores:
        raise NotUnderstood(f"{launch.programs} programs on {rates.vector_cores} cores")
    integers = [name for name in kinds if kinds[name] != "memref"]
    values = (*launch.integers, launch.programs, 1, 1, program, 0, 0)
    if len(values) != len(integers):
        raise ValueError(f"{len(launch.integers)} integers for a kernel that takes {len(integers) - PLACES}")
    walked.numbers.update(zip(integers, values, strict=True))
    walked.walk(function.regions[0])
    return walked


def time(launch: Launch, rates: Rates) -> Time:
    """How long the launch takes on that chip, modelled."""
    walked = {program: walk(launch, program, rates) for program in launch.alike}
    slowest = max(walked.values(), key=lambda program: program.end)

    def total(key: str) -> float:
        return sum(walked[program].counts[key] * number for program, number in launch.alike.items())

    work = slowest.end / rates.cycles_per_us
    hbm = total("traffic") / rates.hbm_bytes_per_us
    start = rates.start_us + rates.start_us_per_core * (launch.programs - 1)
    busy = {queue: slowest.counts[queue] / rates.cycles_per_us for queue in (IN, VECTOR, OUT, SCALAR)}
    return Time(start + max(work, hbm), start, work, hbm, int(total(f"bytes {IN}")), int(total(f"bytes {OUT}")), busy)


def copy_us(num_bytes: int, rates: Rates) -> float:
    """The least that a vendor's copy kernel can take: the start on all cores, and each byte read and written at HBM's
    peak. What it takes really is not known."""
    return rates.start_us + rates.start_us_per_core * (rates.vector_cores - 1) + 2 * num_bytes / rates.hbm_bytes_per_us
