"""The time of a launch: its programs on the cores, all of them sharing the memory, after the start."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.recfunctions import repack_fields

from scripts.model_ascend import clock
from scripts.model_ascend.costs import Costs
from tests.host_cann import trace

# What makes two programs' events the same work. Which memory they touch is not among it.
SHAPE = [name for name in trace.EVENT.names if name not in ("address", "block", "site")]


@dataclass(frozen=True)
class Time:
    """Modelled. ``busy_us`` and ``instructions`` are those of the slowest program, by pipe; the rest is of all."""

    us: float
    start_us: float
    work_us: float  # of the slowest core, alone on the chip
    memory_us: float  # what HBM needs for all programs' requests
    cached_us: float  # all of it, if L2 holds what the launch reads and has room for what it writes
    programs: int
    bytes_in: int
    bytes_out: int
    busy_us: dict[str, float]
    instructions: dict[str, int]
    bursts: int  # of the slowest program


def groups(events: np.ndarray, alike: Mapping[int, int] | None = None) -> list[tuple[np.ndarray, int]]:
    """The programs of a launch: one of each kind, and how many are of it.

    ``alike`` says how many each program that was executed stands for; one, unless told.
    """
    kinds: dict[bytes, tuple[np.ndarray, int]] = {}
    begins = np.flatnonzero(events["kind"] == trace.BEGIN)
    for program in np.split(events, begins)[1:]:
        shape = repack_fields(program[SHAPE]).tobytes()
        first, count = kinds.get(shape, (program, 0))
        kinds[shape] = first, count + (alike[int(program["block"][0])] if alike else 1)
    return list(kinds.values())


def time(
    programs: Sequence[tuple[np.ndarray, int]], costs: Costs, name_of: Callable[[int], str] = trace.name_of
) -> Time:
    """How long the launch takes on that chip: a start, then its programs, one a core.

    Neither the slowest core nor the memory hides all of the other. Alone they would take ``work_us`` and ``memory_us``;
    together they are modelled to take the root of the squares' sum. That is between the larger of them and the sum, and
    is within 6% of the samples where neither is small (``published.py``).

    Of more programs than cores, each core is taken to run its share one after another, as long as the slowest each,
    and to lose nothing between them: what that costs is not known, so it is a lower bound.
    """
    number = sum(count for _, count in programs)
    cores = min(number, costs.vector_cores)
    runs = [(clock.run(events, costs, name_of), count) for events, count in programs]
    slowest = max((run for run, _ in runs), key=lambda run: run.cycles)
    work = math.ceil(number / cores) * slowest.cycles / costs.cycles_per_us
    traffic = sum(run.traffic * count for run, count in runs)
    memory = traffic / costs.hbm_bytes_per_us
    cached = traffic / (costs.l2_bytes_per_us if traffic < costs.l2_bytes else costs.hbm_bytes_per_us)
    start = costs.start_us + costs.start_us_per_core * (cores - 1)
    return Time(
        us=start + math.hypot(work, memory),
        start_us=start,
        work_us=work,
        memory_us=memory,
        cached_us=start + math.hypot(work, cached),
        programs=number,
        bytes_in=sum(run.bytes_in * count for run, count in runs),
        bytes_out=sum(run.bytes_out * count for run, count in runs),
        busy_us={pipe: cycles / costs.cycles_per_us for pipe, cycles in slowest.busy.items()},
        instructions=slowest.instructions,
        bursts=slowest.bursts,
    )


def copy_us(num_bytes: int, costs: Costs) -> float:
    """The least that a vendor's copy kernel can take: the start on all cores, and each byte read and written at HBM's
    peak. What it takes really is not known."""
    return costs.start_us + costs.start_us_per_core * (costs.vector_cores - 1) + 2 * num_bytes / costs.hbm_bytes_per_us
