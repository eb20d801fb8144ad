"""A kernel compiled by Huawei's own compiler and executed on this host: its programs' events, and its results.

``Made`` is what the clock is given: for a launch, which programs were executed and how many each of them stands for.
"""

import faulthandler
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.model_ascend import launch
from scripts.model_ascend.costs import Costs
from tests.host_cann import bishengir, chips, environment, front_end, standalone, trace

COMPILER = "1.2.0"  # of CANN 9.1, which vllm-ascend 0.23 came with


Failed = standalone.Failed  # what the vector core refuses, when a program runs


class DoesNotCompile(Exception):
    """What the compiler said: more than the unified buffer, say."""


@dataclass(frozen=True)
class Kernel:
    program: str  # the final one, as hivmc is given it
    notes: tuple[str, ...]  # what the compiler had to give up to make it fit

    @functools.cached_property
    def loaded(self) -> standalone.Kernel:
        return standalone.load(self.program)


_kernels: dict[tuple[Any, ...], Kernel | str] = {}


def compiled(kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], chip: chips.Chip) -> Kernel:
    """``kernel`` (a ``triton.jit`` function) for those arguments; ``DoesNotCompile`` if the compiler refuses it."""
    key = (id(kernel), chip.name, *types.items(), *constants.items())
    if key not in _kernels:
        _kernels[key] = _compile(front_end.linalg(kernel, types, constants), chip)
    if isinstance(found := _kernels[key], str):
        raise DoesNotCompile(found)
    return found


def _compile(linalg: str, chip: chips.Chip) -> Kernel | str:
    """Kept on disk under a hash of the Linalg: compiling takes a second."""
    (compiler,) = (found for found in bishengir.installed() if found.version == COMPILER)
    name = hashlib.sha256(f"{COMPILER} {chip.soc_name} {linalg}".encode()).hexdigest()
    kept: Path = environment.home() / "modelled" / name
    if not kept.exists():
        made = bishengir.compile(linalg, compiler, chip)
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("\n".join([made.error or "", *made.notes, "---", made.program or ""]))
    said, _, program = kept.read_text().partition("\n---\n")
    error, *notes = said.split("\n")
    return Kernel(program, tuple(notes)) if program else error


@dataclass(frozen=True)
class Executed:
    """Programs of a launch that were executed, and how many each group of like ones stands for."""

    programs: tuple[tuple[np.ndarray, int], ...]
    notes: tuple[str, ...] = ()

    def time(self, costs: Costs) -> launch.Time:
        return launch.time(self.programs, costs)


def crashes(run: Callable[[], object]) -> bool:
    """Whether it would end this process: tried in a child.

    The vendor's library sums rows through a null pointer whose content it does not use. A device lets it.
    """
    if not (child := os.fork()):
        faulthandler.disable()
        try:
            run()
        finally:
            os._exit(0)  # what it raises it will raise again in the parent
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def execute(kernel: Kernel, arguments: Sequence[np.ndarray | int], alike: Mapping[int, int]) -> Executed:
    """Run the programs that ``alike`` names (program -> how many do the same work, itself included)."""
    with trace.watch() as watched:
        kernel.loaded.run(sum(alike.values()), arguments, list(alike))
    return Executed(tuple(launch.groups(watched.events, alike)), kernel.notes)
