"""The clock: from what a program did, instruction by instruction, to modelled cycles.

The scalar unit goes through the program and hands each instruction to its pipe's queue; pipes take theirs in order and
run beside each other:

* an instruction starts when the scalar unit has issued it and its pipe is free; the next of that pipe may start when it
  has read its last operands, while its result takes ``latency`` cycles more;
* ``set_flag`` takes effect when everything before it in its pipe is done; ``wait_flag`` holds its pipe until then;
* ``pipe_barrier`` holds its pipe until everything before it in that pipe is done; of all pipes, all of them;
* what the scalar unit does itself (reading memory, waiting) holds up all that it has not issued yet.

So one core by itself; what cores do to each other is in ``launch.py``.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from scripts.model_ascend import costs as cost_of
from scripts.model_ascend import transfers
from scripts.model_ascend.costs import Costs
from tests.host_cann import trace

S, V, MTE2, MTE3, ALL = (trace.PIPES.index(name) for name in ("S", "V", "MTE2", "MTE3", "ALL"))
NAMES = {S: "scalar", V: "vector", MTE2: "load", MTE3: "store"}


@dataclass
class Pipe:
    free: float = 0.0  # from then on it can take another instruction
    done: float = 0.0  # all of its results are there
    busy: float = 0.0
    instructions: int = 0
    starts: deque[float] = field(default_factory=deque)  # of the instructions that last went through its queue


@dataclass(frozen=True)
class Run:
    """One program, modelled."""

    cycles: float
    busy: dict[str, float]  # by pipe
    instructions: dict[str, int]  # by pipe
    bursts: int
    bytes_in: int
    bytes_out: int
    traffic: int  # what of global memory's bandwidth its transfers use, in bytes


def run(events: np.ndarray, costs: Costs, name_of: Callable[[int], str] = trace.name_of) -> Run:
    """The events of one program (``trace.EVENT``, in the order of issue) as modelled time."""
    return _Core(costs, name_of).run(events)


class _Core:
    def __init__(self, costs: Costs, name_of: Callable[[int], str]) -> None:
        self.costs, self.name_of = costs, name_of
        self.now = 0.0  # of the scalar unit
        self.pipes: dict[int, Pipe] = defaultdict(Pipe)
        self.flags: dict[tuple[int, int, int], deque[float]] = defaultdict(deque)
        self.cached: set[int] = set()  # what the scalar unit has seen of global memory
        self.bursts = self.bytes_in = self.bytes_out = self.traffic = 0

    def run(self, events: np.ndarray) -> Run:
        steps = {
            trace.VECTOR: self.vector, trace.COPY: self.copy, trace.LOAD: self.load, trace.STORE: self.store,
            trace.SCALAR: self.scalar, trace.SET: self.set_flag, trace.WAIT: self.wait_flag,
            trace.BARRIER: self.barrier,
        }  # fmt: skip
        for event in events[list(trace.EVENT.names)].tolist():
            name, address, pitch, repeats, bursts, burst_bytes, _, _, kind, pipe, to, number = event
            if kind == trace.BEGIN:
                continue
            self.pipes[S].busy += self.costs.issue_cycles
            self.now += self.costs.issue_cycles
            if kind in (trace.SET, trace.WAIT, trace.BARRIER):
                steps[kind](pipe, to, number)
            elif kind in (trace.VECTOR, trace.COPY):
                steps[kind](name, repeats, bursts, burst_bytes)
            else:
                steps[kind](address, pitch, bursts, burst_bytes)
        return Run(
            max([self.now, *(pipe.done for pipe in self.pipes.values())]),
            {name: self.pipes[pipe].busy for pipe, name in NAMES.items()},
            {name: self.pipes[pipe].instructions for pipe, name in NAMES.items()},
            self.bursts, self.bytes_in, self.bytes_out, self.traffic,
        )  # fmt: skip

    def issue(self, number: int, cycles: float, latency: float) -> None:
        """Hand it to that pipe's queue; if that is full, the scalar unit waits until one there has started."""
        pipe = self.pipes[number]
        if len(pipe.starts) == self.costs.queue:
            self.now = max(self.now, pipe.starts.popleft())
        start = max(self.now, pipe.free)
        pipe.starts.append(start)
        pipe.free = start + cycles
        pipe.done = max(pipe.done, pipe.free + latency)
        pipe.busy += cycles
        pipe.instructions += 1

    def vector(self, name: int, repeats: int, _bursts: int, _bytes: int) -> None:
        each, latency = cost_of.vector(self.name_of(name))
        self.issue(V, max(1, repeats) * each, latency)

    def copy(self, _name: int, _repeats: int, bursts: int, burst_bytes: int) -> None:
        each, latency = cost_of.COPY
        self.issue(V, bursts * -(-burst_bytes // 256) * each, latency)

    def load(self, address: int, pitch: int, bursts: int, burst_bytes: int) -> None:
        asked = self.transfer(address, pitch, bursts, burst_bytes)
        self.bytes_in += bursts * burst_bytes
        self.issue(MTE2, transfers.load_cycles(asked, self.costs), self.costs.load_latency)

    def store(self, address: int, pitch: int, bursts: int, burst_bytes: int) -> None:
        asked = self.transfer(address, pitch, bursts, burst_bytes)
        self.bytes_out += bursts * burst_bytes
        self.issue(MTE3, transfers.store_cycles(asked, self.costs), self.costs.store_latency)

    def transfer(self, address: int, pitch: int, bursts: int, burst_bytes: int) -> transfers.Requests:
        line = self.costs.line_bytes
        asked = transfers.requests(address % line, pitch, bursts, burst_bytes, line)
        self.bursts += asked.bursts
        self.traffic += asked.traffic
        return asked

    def scalar(self, address: int, stores: int, accesses: int, size: int) -> None:
        """A register set, or memory touched: of the unified buffer, or (with an address) of global memory."""
        costs = self.costs
        if not accesses:
            return
        self.pipes[S].instructions += 1
        cycles = costs.buffer_store_cycles if stores else costs.buffer_load_cycles
        if address and not stores:
            seen = address // costs.cached_bytes
            if seen not in self.cached:
                self.cached.add(seen)
                cycles += costs.load_latency
        self.pipes[S].busy += cycles
        self.now += cycles

    def set_flag(self, sets: int, waits: int, number: int) -> None:
        self.flags[sets, waits, number].append(max(self.now, 0.0 if sets == S else self.pipes[sets].done))

    def wait_flag(self, sets: int, waits: int, number: int) -> None:
        """``IndexError`` if it was never set."""
        self.hold(waits, self.flags[sets, waits, number].popleft())

    def barrier(self, pipe: int, _to: int, _number: int) -> None:
        if pipe != ALL:
            self.hold(pipe, self.pipes[pipe].done)
            return
        done = max(p.done for p in self.pipes.values())
        for held in self.pipes:
            self.hold(held, done)

    def hold(self, pipe: int, until: float) -> None:
        if pipe == S:
            self.now = max(self.now, until)
        else:
            self.pipes[pipe].free = max(self.pipes[pipe].free, self.now, until)
