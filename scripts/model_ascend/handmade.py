"""Programs written by hand, as the events that a vector core would have recorded: for samples, and for tests."""

import numpy as np

from scripts.model_ascend.clock import ALL, MTE2, MTE3, S, V
from tests.host_cann import trace

NAMES = ("", "VADD.f16", "VMULS.f32", "scalar")
PIPES = {"S": S, "V": V, "MTE2": MTE2, "MTE3": MTE3, "ALL": ALL}


def name_of(number: int) -> str:
    """Stands for ``trace.name_of``."""
    return NAMES[number]


class Program:
    """Events in the order of issue; every method adds one and returns the program."""

    def __init__(self, block: int = 0) -> None:
        self._block, self._events = block, [self._event(kind=trace.BEGIN, block=block)]

    @staticmethod
    def _event(**fields: int) -> tuple[int, ...]:
        return tuple(fields.get(name, 0) for name in trace.EVENT.names)

    def _add(self, **fields: int) -> "Program":
        self._events.append(self._event(block=self._block, **fields))
        return self

    def vector(self, repeats: int, name: str = "VMULS.f32") -> "Program":
        return self._add(kind=trace.VECTOR, pipe=V, repeats=repeats, name=NAMES.index(name))

    def copy(self, bursts: int, burst_bytes: int) -> "Program":
        return self._add(kind=trace.COPY, pipe=V, bursts=bursts, burst_bytes=burst_bytes, name=1)

    def load(self, burst_bytes: int, bursts: int = 1, pitch: int = 0, address: int = 0) -> "Program":
        shape = {"bursts": bursts, "burst_bytes": burst_bytes, "pitch": pitch or burst_bytes, "address": address}
        return self._add(kind=trace.LOAD, pipe=MTE2, name=1, **shape)

    def store(self, burst_bytes: int, bursts: int = 1, pitch: int = 0, address: int = 0) -> "Program":
        shape = {"bursts": bursts, "burst_bytes": burst_bytes, "pitch": pitch or burst_bytes, "address": address}
        return self._add(kind=trace.STORE, pipe=MTE3, name=1, **shape)

    def scalar(self, address: int = 0, stores: bool = False) -> "Program":
        """One access to memory: of the unified buffer, or with an address of global memory."""
        access = {"address": address, "pitch": int(stores), "bursts": 1, "burst_bytes": 4}
        return self._add(kind=trace.SCALAR, pipe=S, name=3, **access)

    def set_flag(self, sets: str, waits: str, event: int = 0) -> "Program":
        return self._add(kind=trace.SET, pipe=PIPES[sets], to=PIPES[waits], event=event)

    def wait_flag(self, sets: str, waits: str, event: int = 0) -> "Program":
        return self._add(kind=trace.WAIT, pipe=PIPES[sets], to=PIPES[waits], event=event)

    def barrier(self, pipe: str) -> "Program":
        return self._add(kind=trace.BARRIER, pipe=PIPES[pipe], to=PIPES[pipe])

    def events(self) -> np.ndarray:
        return np.array(self._events, trace.EVENT)
