"""The time of one program of a kernel: its operations put on the queues of a vector core, in order.

A loop's first iterations are walked; the rest take as long as those do on average once the loop is under way.
"""

from dataclasses import dataclass, field

from scripts.model_ascend import scalars, vector
from scripts.model_ascend.memory import View
from scripts.model_ascend.queues import IN, OUT, SCALAR, VECTOR, Queues
from scripts.model_ascend.regions import Node, NotUnderstood, brackets
from scripts.model_ascend.scalars import Number, Varying
from tests.host_cann.compiler.linalg_ir import BITS

HIDDEN_ARGUMENTS = 2  # a lock and a workspace, before the kernel's own
WALKED = 6  # iterations of a longer loop
FREE = {
    "memref.alloc", "tensor.empty", "bufferization.to_tensor", "tensor.reshape", "tensor.collapse_shape",
    "tensor.expand_shape", "memref.subview", "memref.cast", "return",
}  # fmt: skip
SLICES = {"tensor.extract_slice", "tensor.insert_slice"}
COPIES = {"memref.copy", "bufferization.materialize_in_destination"}


@dataclass
class Program(Queues):
    """One program being walked."""

    numbers: dict[str, Number] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    moved: set[tuple[object, ...]] = field(default_factory=set)  # lines that have been moved; L2 keeps them
    varies: bool = False  # whether a size or a condition was different, or could be, from one iteration to the next

    def number(self, text: str) -> int:
        value = self.numbers.get(text) if text.startswith("%") else int(text)
        if value is None:
            raise NotUnderstood(f"a size, bound or condition that data decide: {text}")
        self.varies |= isinstance(value, Varying)
        return value

    def walk(self, nodes: list[Node]) -> None:
        for node in nodes:
            if node.name == "scf.for":
                self.loop(node)
            elif node.name == "scf.if":
                self.condition(node)
            else:
                self.one(node)

    def condition(self, node: Node) -> None:
        if node.results:
            raise NotUnderstood(node.text)
        self.free_at[SCALAR] += self.rates.scalar_cycles
        if self.number(node.operands[0]):
            self.walk(node.regions[0])
        elif len(node.regions) > 1:
            self.walk(node.regions[1])

    def loop(self, node: Node) -> None:
        if node.results or "iter_args" in node.text:
            raise NotUnderstood(node.text)
        name, *bounds = node.operands
        first, last, step = (self.number(bound) for bound in bounds)
        trips = max(0, -(-(last - first) // step))
        outer, self.varies = self.varies, False
        marks: list[float] = []
        for trip in range(trips):
            before = self.counts.copy()
            self.numbers[name] = Varying(first + trip * step)
            self.ready[name] = self.free_at[SCALAR]
            self.walk(node.regions[0])
            marks.append(max(self.free_at.values()))
            rest = trips - trip - 1
            if trip + 1 >= WALKED and rest and not rest % 2 and not self.varies:  # two buffers: two tiles are a period
                self.skip(rest * (marks[-1] - marks[-3]) / 2)
                for key, value in self.counts.items():
                    self.counts[key] = value + rest * (value - before[key])
                break
        self.varies |= outer

    def one(self, node: Node) -> None:
        source = node.operands[0] if node.operands else ""
        if node.name == "memref.reinterpret_cast":
            self.view(node)
        elif node.name == "memref.subview" and source in self.views:
            self.subview(node)
        elif node.name in COPIES:
            self.transfer(node)
        elif node.name in ("memref.load", "tensor.extract"):
            self.scalar_read(node)
        elif node.name == "arith.constant" and "xi64>" in node.text:
            pass  # the shape that a tensor.reshape takes; vectors of int64 have no rate, so nothing else uses it
        elif any(shape.dims for shape in node.shapes) and node.name not in FREE:
            self.vector(node)
        elif node.name in FREE:
            if node.name in ("memref.alloc", "tensor.empty"):
                self.hold(node)
            elif node.results:
                self.same(node, source)
        else:
            self.scalar(node)

    def scalar(self, node: Node) -> None:
        if not node.results:
            raise NotUnderstood(node.text)
        values = [self.numbers.get(name) for name in node.operands]
        for name in node.results:
            self.numbers[name] = scalars.result(node, values)
        wait = max([self.ready.get(name, 0.0) for name in node.operands], default=0.0)
        if node.name != "arith.constant":
            self.free_at[SCALAR] = max(self.free_at[SCALAR], wait) + self.rates.scalar_cycles
            self.counts[SCALAR] += self.rates.scalar_cycles
        for name in node.results:
            self.ready[name] = self.free_at[SCALAR]

    def scalar_read(self, node: Node) -> None:
        """Of global memory, as long as a transfer takes to arrive; or of the unified buffer. The scalar unit waits."""
        outside = node.operands[0] in self.views
        cycles = self.rates.latency_cycles if outside else self.rates.unified_read_cycles
        self.free_at[SCALAR] = max(self.free_at[SCALAR], self.ready.get(node.operands[0], 0.0)) + cycles
        self.counts[SCALAR] += cycles
        self.counts["scalar reads"] += outside
        self.numbers[node.results[0]] = None
        self.ready[node.results[0]] = self.free_at[SCALAR]

    def vector(self, node: Node) -> None:
        cycles = vector.cycles(node, self.rates)
        if node.name == "linalg.fill" and not node.results:
            target = node.operands[-1]
            done = self.start(VECTOR, node, cycles, [target])
            self.ready[target] = self.writable[self.buffer[target]] = done
        elif node.name in SLICES:
            source = node.operands[0] if node.name == "tensor.extract_slice" else node.operands[1]
            done = self.start(VECTOR, node, cycles, node.operands) if cycles else 0.0
            self.same(node, source)
            self.ready[node.results[0]] = max(done, *(self.ready.get(name, 0.0) for name in node.operands))
        elif node.results:
            self.ready[node.results[0]] = self.start(VECTOR, node, cycles, node.operands, self.hold(node))
        else:
            raise NotUnderstood(node.text)

    def view(self, node: Node) -> None:
        (offset,), sizes, strides = brackets(node.text)
        argument, size = node.operands[0], BITS[node.shapes[-1].element] // 8
        at = self.numbers.get(offset) if offset.startswith("%") else int(offset)
        self.views[node.results[0]] = View(
            int(argument.removeprefix("%arg")) - HIDDEN_ARGUMENTS,
            None if at is None else at * size,
            tuple(self.number(value) for value in sizes),
            tuple(self.number(value) * size for value in strides),
            size,
        )
        self.ready[node.results[0]] = max((self.ready.get(name, 0.0) for name in node.operands), default=0.0)

    def subview(self, node: Node) -> None:
        view = self.views[node.operands[0]]
        offsets, sizes, strides = ([self.number(value) for value in values] for values in brackets(node.text))
        offset = view.offset
        if offset is not None:
            offset += sum(at * stride for at, stride in zip(offsets, view.strides, strict=True))
        apart = tuple(a * b for a, b in zip(strides, view.strides, strict=True))
        self.views[node.results[0]] = View(view.argument, offset, tuple(sizes), apart, view.itemsize)
        self.ready[node.results[0]] = self.ready[node.operands[0]]

    def transfer(self, node: Node) -> None:
        source, target = node.operands[:2]
        if (source in self.views) == (target in self.views):
            raise NotUnderstood(node.text)
        load = source in self.views
        view = self.views[source if load else target]
        if not view.bytes:
            return
        queue, rate = (IN, self.rates.load_rate) if load else (OUT, self.rates.store_rate)
        # A fill comes first, or might: the transfer waits for the vector queue, with all that was put on it before.
        wait = 0.0
        if load:
            line = self.buffer[target]
            wait = max(self.writable[line], self.free_at[VECTOR] if line in self.filled else 0.0)
        # Loads into parts of one buffer do not wait for each other.
        done = self.start(queue, node, view.cycles(rate, self.rates), [source], wait)
        self.counts["transfers"] += 1
        self.counts[f"bytes {queue}"] += view.bytes
        if (lines := (queue, *view.lines(self.rates))) not in self.moved:
            self.moved.add(lines)
            self.counts["traffic"] += view.traffic(self.rates)
        if load:
            for name, made in self.buffer.items():
                if made == line:
                    self.ready[name] = max(self.ready[name], done)
