"""How many bytes of unified buffer (UB) a kernel holds at once: a model, calibrated on what users reported.

The Linalg is walked once. Every tensor result and every local allocation is a buffer that lives from its definition to
its last use (to the loop's end, if it is used in a loop it was defined outside of). A slice with unit strides, a change
of form, an insertion are the buffer they look at. An element-wise operation writes over an operand of its size that
dies with it. Broadcasts along heads or tokens are buffers. With multi-buffering, what is loaded from or stored to
global memory inside a loop is held twice. Rows are padded to 32 bytes; an innermost axis of 2 (the pairs of GPT-J)
counts as part of the axis before it. The need is the peak of what lives, plus ``RESERVE``.

Calibration (vllm-ascend's own kernel of 0.23.0; ``tests/test_host_cann_upstream.py`` recomputes and prints the table):

    heads x rotary_dim   style    reported on hardware             modelled
    64 x 192 (pad 256)   NeoX     overflow, by about 2 KiB         194 KiB, overflow by 2 KiB
    16 x 192 (pad 256)   NeoX     fits                              50 KiB
    64 x 128             NeoX     fits                              98 KiB
    32 x 128             GPT-J    fits                              50 KiB
    64 x 256             NeoX     overflow                         194 KiB
    16 x 256             NeoX     fits                              50 KiB

Trust: only two reports are overflows and they are the same tile, so the slope (24 bytes for each element of half a
head) is one observation, ``RESERVE`` was chosen to meet its "2 KiB", and the fits only show that the model does not
refuse far too much. A reviewer's rule of thumb (32 bytes, 8 KiB reserved) is stricter. A kernel within a third of the
limit should not be believed either way: the real compiler fuses, reorders and needs scratch space in ways that are not
modelled.
"""

from dataclasses import dataclass

from . import linalg_ir
from .linalg_ir import BITS, Operation, Shape

RESERVE = 2 << 10
BLOCK = 32
VIEWS = (
    "memref.subview",
    "memref.reinterpret_cast",
    "memref.cast",
    "bufferization.to_tensor",
    "tensor.collapse_shape",
    "tensor.expand_shape",
    "tensor.reshape",
    "tensor.cast",
    "memref.collapse_shape",
    "memref.expand_shape",
)
ELEMENTWISE = ("arith.", "math.")


@dataclass
class Buffer:
    bytes: int
    first: int
    last: int
    copies: int = 1


def padded_bytes(shape: Shape) -> int:
    dims = list(shape.dims) or [1]
    if len(dims) > 1 and dims[-1] == 2:
        dims[-2:] = [dims[-2] * 2]
    rows = 1
    for size in dims[:-1]:
        rows *= size
    row = dims[-1] * BITS[shape.element] // 8
    return rows * -(-row // BLOCK) * BLOCK


def contiguous_slice(op: Operation) -> bool:
    """Does extract_slice only narrow, so that it can stay where it is? Its third bracket holds the strides."""
    brackets = op.text.split("]")
    return set(brackets[2].strip(" [").split(", ")) == {"1"}


def result_shape(op: Operation) -> Shape:
    shape = op.shape
    return Shape(shape.dims, "i1") if op.name.startswith("arith.cmp") else shape


class Plan:
    """The buffers of one kernel."""

    def __init__(self, linalg: str, multi_buffer: bool) -> None:
        self.multi_buffer = multi_buffer
        self.operations = linalg_ir.operations(linalg)
        self.ends = linalg_ir.loop_ends(linalg)
        self.buffers: dict[str, Buffer] = {}
        self.root: dict[str, str] = {}  # value, as named at this point -> the buffer it is in
        self.replaceable: dict[str, list[str]] = {}  # an element-wise result's buffer -> its operands' buffers
        for op in self.operations:
            self.use(op)
            self.define(op)

    def use(self, op: Operation) -> None:
        for name in op.operands:
            buffer = self.buffers.get(self.root.get(name, ""))
            if buffer is None:
                continue
            outside = [loop for loop in op.loops if loop > buffer.first]
            buffer.last = max(buffer.last, self.ends[outside[0]] if outside else op.line)
        if op.loops and self.multi_buffer and op.name in ("memref.copy", "bufferization.materialize_in_destination"):
            for name in op.operands:  # one side is local, the other global and without a buffer
                if buffer := self.buffers.get(self.root.get(name, "")):
                    buffer.copies = 2

    def define(self, op: Operation) -> None:
        # MLIR uses a name again in a sibling region; and what is looked at below is by the old meaning of the operands.
        sources = {name: self.root[name] for name in op.operands if name in self.root}
        for name in op.results:
            self.root.pop(name, None)
        if op.name == "scf.for":  # iteration arguments are the buffers of their initial values
            for name, first in zip(op.operands[0::1], op.operands[1::1], strict=False):
                if first in sources and f"{name} = {first}" in op.text:
                    self.root[name] = sources[first]
            return
        view = op.name in VIEWS or (op.name == "tensor.extract_slice" and contiguous_slice(op))
        if view or op.name == "tensor.insert_slice":
            source = op.operands[1] if op.name == "tensor.insert_slice" else op.operands[0]
            if source in sources:
                self.root[op.results[0]] = sources[source]
                return
            if view:
                return  # of global memory
        tensor = op.results and op.shape is not None and ("tensor<" in op.text) and op.name != "tensor.extract"
        if op.name == "tensor.empty" or not (tensor or op.name == "memref.alloc"):
            return
        for name in op.results:
            key = f"{name}@{op.line}"
            self.buffers[key] = Buffer(padded_bytes(result_shape(op)), op.line, op.line)
            self.root[name] = key
            if op.name.startswith(ELEMENTWISE):
                self.replaceable[key] = list(sources.values())

    def overwritten(self, key: str) -> Buffer | None:
        """The dying operand whose place an element-wise result takes."""
        result = self.buffers[key]
        for operand in self.replaceable.get(key, ()):
            buffer = self.buffers[operand]
            if buffer.last == result.first and buffer.bytes == result.bytes and buffer.copies == 1:
                return buffer
        return None

    def peak(self) -> int:
        highest = 0
        for op in self.operations:
            live = {name: b for name, b in self.buffers.items() if b.first <= op.line <= b.last}
            total = sum(b.bytes * b.copies for b in live.values())
            for name, buffer in live.items():
                if buffer.first == op.line and (over := self.overwritten(name)):
                    total -= over.bytes
            highest = max(highest, total)
        return highest


def required_bytes(linalg: str, multi_buffer: bool) -> int:
    """What the kernel needs of the UB, by the model of this file's docstring. 0 if it holds nothing there."""
    peak = Plan(linalg, multi_buffer).peak()
    return peak + RESERVE if peak else 0
