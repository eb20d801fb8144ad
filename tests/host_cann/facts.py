"""What Triton-Ascend's front end made of a kernel, as facts a test can state.

    facts = of(kernel, {"x_ptr": "*bf16", "n": "i32"}, {"BLOCK": 128})
    assert facts.scalar_accesses == () and facts.transfers[0].row_bytes == 256

They are read off the Linalg that the back-end compiler is given. The compiler may still merge, split or reorder what is
listed here; ``ub_bytes`` is a model (see ``compiler/ub.py``). A grid belongs to a launch: ``launched`` gives the facts
of the kernels that ran, whoever compiled and started them, each with the grid that the runtime saw.

    (facts,) = launched(torch, lambda: add_one[(8,)](x, 1000, BLOCK=128))
    assert facts.grid == (8, 1, 1)
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from . import environment, front_end
from .compiler import linalg_ir, ub
from .compiler.linalg_ir import Operation, Shape

LOAD, STORE = "load", "store"
GLOBAL_VIEWS = ("memref.reinterpret_cast", "memref.subview", "memref.cast")
VECTOR = ("arith.", "math.", "linalg.", "hfusion.")


@dataclass(frozen=True)
class Transfer:
    """One DMA between global memory and the unified buffer, as it stands in the text: once, in whatever loops."""

    direction: str  # "load" or "store"
    argument: int  # the kernel's run-time argument it reads or writes, counted from 0
    bytes: int | None  # per execution; None where the size is known only at run time (a masked tail)
    row_bytes: int  # how many of them are adjacent in global memory: the length of one burst
    loop_depth: int


@dataclass(frozen=True)
class ScalarAccess:
    """A scalar read or write: one element at a time through the scalar unit."""

    operation: str
    where: str  # "global" or "unified buffer"
    loop_depth: int


@dataclass(frozen=True)
class Facts:
    transfers: tuple[Transfer, ...]
    scalar_accesses: tuple[ScalarAccess, ...]  # to global memory
    index_reads: tuple[ScalarAccess, ...]  # of the unified buffer: a row's number, say, before that row's DMA
    vector_operations: Mapping[str, int]  # operation -> how often it stands in the text
    ub_bytes: int
    grid: tuple[int, int, int] | None = None  # of a launch; None for a kernel that was only compiled

    def bytes_moved(self, direction: str, argument: int) -> int:
        """Sum over the transfers of that direction and argument whose size is known."""
        return sum(t.bytes or 0 for t in self.transfers if (t.direction, t.argument) == (direction, argument))


HIDDEN_ARGUMENTS = 2  # the lock and the workspace, before the kernel's own


def of(kernel: Any, signature: Mapping[str, str], constexprs: Mapping[str, Any], multi_buffer: bool = True) -> Facts:
    """The facts of ``kernel`` (a ``triton.jit`` function) for these argument types and constexpr values."""
    return read(front_end.linalg(kernel, signature, constexprs), multi_buffer)


def launched(torch: ModuleType, work: Callable[[], object]) -> list[Facts]:
    """The facts of every kernel that runs on the device because of ``work``, in the order they ran, with their grids.
    Only in a process on the host CANN."""
    library = ctypes.CDLL("libascendcl.so")
    library.host_cann_launch.restype = ctypes.c_char_p
    torch.npu.synchronize()
    library.host_cann_watch_launches(True)
    try:
        work()
        torch.npu.synchronize()
    finally:
        library.host_cann_watch_launches(False)
    grid, found = (ctypes.c_int32 * 3)(), []
    while key := library.host_cann_launch(len(found), grid):
        linalg = environment.compiled(key.decode()).with_suffix(".mlir").read_text()
        found.append(replace(read(linalg), grid=tuple(grid)))
    return found


def read(linalg: str, multi_buffer: bool = True) -> Facts:
    arguments: dict[str, int] = {}  # value -> the kernel argument whose memory it looks at
    transfers, scalars, indices = [], [], []
    vectors: Counter[str] = Counter()
    for op in linalg_ir.operations(linalg):
        source = op.operands[0] if op.operands else ""
        if op.name == "func.func":
            arguments = {f"%arg{i + HIDDEN_ARGUMENTS}": i for i in range(len(op.operands))}
            continue
        for name in op.results:
            arguments.pop(name, None)
        if op.name in GLOBAL_VIEWS and source in arguments:
            arguments[op.results[0]] = arguments[source]
        elif op.name in ("memref.copy", "bufferization.materialize_in_destination"):
            transfers += transfer(op, arguments)
        elif op.name in ("memref.load", "memref.store", "tensor.extract", "tensor.insert"):
            touched = op.operands[1] if op.name == "memref.store" else source
            outside = touched in arguments
            (scalars if outside else indices).append(
                ScalarAccess(op.name, "global" if outside else "unified buffer", len(op.loops))
            )
        elif (
            op.name != "arith.constant"
            and op.name.startswith(VECTOR)
            and any(s.dims and "tensor<" in op.text for s in op.shapes)
        ):
            vectors[op.name] += 1
    return Facts(
        tuple(transfers), tuple(scalars), tuple(indices), dict(vectors), ub.required_bytes(linalg, multi_buffer)
    )


def transfer(op: Operation, arguments: Mapping[str, int]) -> list[Transfer]:
    """The DMA that a copy is; none if it stays inside the unified buffer."""
    source, target = op.operands[0], op.operands[1]
    if source in arguments:
        return [described(LOAD, arguments[source], op.shapes[0], op)]
    if target in arguments:
        return [described(STORE, arguments[target], op.shapes[-1], op)]
    return []


def described(direction: str, argument: int, shape: Shape, op: Operation) -> Transfer:
    known = -1 not in shape.dims
    return Transfer(direction, argument, shape.bytes if known else None, shape.contiguous_bytes(), len(op.loops))
