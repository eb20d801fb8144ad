"""A kernel on the vector core by itself, with NumPy's memory as global memory: no torch-npu, no runtime.

    kernel = standalone.load(program)
    kernel.run(grid, [q, k, cache, 5, 128])

Run in a process on the host CANN (``run.py``).
"""

import ctypes
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import environment, trace
from .hivmc import __main__ as hivmc
from .hivmc import entry
from .hivmc import program as final


class Failed(RuntimeError):
    """The core refused something; the message is the core's."""


class Kernel:
    def __init__(self, hivm: str) -> None:
        hivmc.compiled(hivm)
        self.name, types = final.kernel(hivm)
        self._places, self._grid = entry.offsets(types[1 : -entry.GRID_PARAMETERS])
        self._types = types[3 : -entry.GRID_PARAMETERS]  # behind the flags' address, the lock and the workspace
        path = environment.compiled(hashlib.sha256(hivm.encode()).hexdigest())
        self._entry = ctypes.CDLL(str(path)).host_cann_entry
        self._entry.restype = ctypes.c_char_p

    def run(self, grid: int, arguments: Sequence[np.ndarray | int], programs: Sequence[int] | None = None) -> None:
        """Run ``programs`` of a one-dimensional grid (all of them unless told), one after another."""
        packed = bytearray(self._grid + 12)
        for kind, place, value in zip(self._types, self._places[2:], arguments, strict=True):
            number = value.ctypes.data if isinstance(value, np.ndarray) else int(value)
            width = 8 if kind.startswith("memref") or kind.endswith("64") else 4
            packed[place : place + width] = number.to_bytes(width, "little", signed=number < 0)
        for i, size in enumerate((grid, 1, 1)):
            packed[self._grid + 4 * i : self._grid + 4 * i + 4] = size.to_bytes(4, "little")
        struct = ctypes.create_string_buffer(bytes(packed), len(packed))
        with trace.every_race():
            self._run(struct, range(grid) if programs is None else programs)

    def _run(self, struct: ctypes.Array[Any], programs: Sequence[int]) -> None:
        for program in programs:
            if said := self._entry(struct, ctypes.c_uint32(program)):
                raise Failed(f"kernel {self.name}, program {program}: {said.decode()}")


def load(hivm: str) -> Kernel:
    """The kernel of a final program's text. Raises what ``hivmc`` refuses, with its message."""
    return Kernel(hivm)
