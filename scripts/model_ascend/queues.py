"""The queues of a vector core and the buffers of its unified memory: what starts when.

A core has a queue each for transfers in, vector operations and transfers out, and the scalar unit that feeds them. An
operation starts when its queue is free, its operands are there and its buffer is. What one iteration of a loop holds
is free again for the next but one (multi-buffering), so that transfers and arithmetic overlap; what is filled before it
is loaded (a mask) has one buffer only, and does not.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from scripts.model_ascend.rates import Rates
from scripts.model_ascend.regions import Node, NotUnderstood

IN, VECTOR, OUT, SCALAR = "in", "vector", "out", "scalar"


@dataclass
class Queues:
    """One program under way. Times are in cycles from its start."""

    rates: Rates
    masked: frozenset[str]  # buffers that are filled before they are loaded
    free_at: dict[str, float] = field(default_factory=lambda: dict.fromkeys((IN, VECTOR, OUT, SCALAR), 0.0))
    counts: dict[str, float] = field(
        default_factory=lambda: defaultdict(float)
    )  # cycles of each queue, bytes, traffic, transfers
    ready: dict[str, float] = field(default_factory=dict)
    buffer: dict[str, int] = field(default_factory=dict)  # value -> the line that made the buffer it is in
    used: dict[int, list[float]] = field(default_factory=dict)  # buffer -> the ends of its last uses, by instance
    writable: dict[int, float] = field(default_factory=dict)  # buffer -> since when its last instance is
    filled: set[int] = field(default_factory=set)  # buffers, by line, that are masked
    end: float = 0.0

    def start(self, queue: str, node: Node, cycles: float, reads: list[str], wait: float = 0.0) -> float:
        """Put it on its queue, once what it reads is there; returns when its result is."""
        self.free_at[SCALAR] += self.rates.issue_cycles
        self.counts[SCALAR] += self.rates.issue_cycles
        operands = [self.ready.get(name, 0.0) for name in reads]
        begin = max(self.free_at[queue], self.free_at[SCALAR], wait, *operands)
        self.free_at[queue] = begin + cycles
        self.counts[queue] += cycles
        done = begin + cycles + (self.rates.latency_cycles if queue in (IN, OUT) else 0.0)
        for name in node.operands:
            if (line := self.buffer.get(name)) is not None:
                times = self.used[line]
                times[-1] = max(times[-1], done)
        self.end = max(self.end, done)
        return done

    def hold(self, node: Node) -> float:
        """A buffer for the node's result; returns when it may be written."""
        name = node.results[0]
        times = self.used.setdefault(node.line, [])
        if name in self.masked:
            self.filled.add(node.line)
        instances = 1 if name in self.masked else 2
        may_write = times[-instances] if len(times) >= instances else 0.0
        self.used[node.line] = [*times[-1:], may_write]
        self.buffer[name] = node.line
        self.ready[name] = self.writable[node.line] = may_write
        return may_write

    def same(self, node: Node, source: str) -> None:
        if source not in self.buffer:
            raise NotUnderstood(node.text)
        self.buffer[node.results[0]] = self.buffer[source]
        self.ready[node.results[0]] = self.ready[source]

    def skip(self, cycles: float) -> None:
        """Everything happens that much later."""
        self.free_at = {queue: time + cycles for queue, time in self.free_at.items()}
        self.ready = {name: time + cycles for name, time in self.ready.items()}
        self.writable = {line: time + cycles for line, time in self.writable.items()}
        self.used = {line: [time + cycles for time in times] for line, times in self.used.items()}
        self.end += cycles
