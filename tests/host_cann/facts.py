"""What kernels did when they ran, as facts that tests can assert; taken from the instructions that were executed.

    (facts,) = launched(torch, lambda: add_one[(8,)](x, 1000, BLOCK=128))
    assert facts.grid == (8, 1, 1)
    assert facts.bytes_moved("load", x) == 4000

They are of the program that Ascend's compiler made, whoever compiled and started it. What that compiler says of a
kernel that nobody runs, ``bishengir.compile`` tells.
"""

import contextlib
import ctypes
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from . import environment, final_program, trace

LOAD, STORE = "load", "store"


@dataclass(frozen=True)
class Transfer:
    """One DMA between global memory and the unified buffer."""

    direction: str  # "load" or "store"
    address: int  # of the first burst, in global memory
    bursts: int
    burst_bytes: int  # adjacent in global memory
    program: int  # its number in the grid

    @property
    def bytes(self) -> int:
        return self.bursts * self.burst_bytes


@dataclass(frozen=True)
class Work:
    """The work of one pipe."""

    instructions: int
    repeats: int  # of vector instructions: how many pieces of 256 bytes they processed


@dataclass(frozen=True)
class Facts:
    grid: tuple[int, int, int]
    ub_bytes: int  # bytes of the unified buffer that the program uses, by its addresses
    transfers: tuple[Transfer, ...]
    global_scalars: int  # elements of global memory that the scalar unit read or wrote, one by one
    buffer_scalars: int  # of the unified buffer: a cache row's number, say, before that row's DMA
    vector_operations: Mapping[str, int]  # instruction -> how often it was issued
    pipes: Mapping[str, Work]
    flags: int  # flags that are set; each is waited for
    barriers: int

    def of(self, direction: str, tensor: Any) -> list[Transfer]:
        """The transfers of that direction that begin in ``tensor``'s memory (a torch tensor)."""
        begin = tensor.data_ptr()
        end = begin + tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
        return [t for t in self.transfers if t.direction == direction and begin <= t.address < end]

    def bytes_moved(self, direction: str, tensor: Any) -> int:
        return sum(t.bytes for t in self.of(direction, tensor))


def launched(torch: ModuleType, work: Callable[[], object]) -> list[Facts]:
    """The facts of every kernel that runs on the device because of ``work``, in the order they ran."""
    torch.npu.synchronize()
    with trace.watch() as watched, _noted():
        work()
        torch.npu.synchronize()
    found = []
    for number, events in enumerate(watched.launches()):
        program, grid = _launch(number)
        found.append(read(events, grid, final_program.ub_bytes(program)))
    return found


@contextlib.contextmanager
def counted(torch: ModuleType) -> Iterator[Counter[str]]:
    """How often each kernel runs on the device inside, replays of graphs included; filled at the end."""
    counts: Counter[str] = Counter()
    with _noted():
        yield counts
        torch.npu.synchronize()
    for number in itertools.count():
        program, _ = _launch(number)
        if not program:
            return
        counts[final_program.name(program)] += 1


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    """The runtime notes launches inside."""
    runtime = ctypes.CDLL("libascendcl.so")
    runtime.host_cann_watch_launches(True)
    try:
        yield
    finally:
        runtime.host_cann_watch_launches(False)


def _launch(number: int) -> tuple[str, tuple[int, int, int]]:
    """The program and the grid of that launch; an empty program past the last one."""
    ask = ctypes.CDLL("libascendcl.so").host_cann_launch
    ask.restype = ctypes.c_char_p
    grid = (ctypes.c_int32 * 3)()
    key = ask(number, grid)
    program = environment.compiled(key.decode()).with_suffix(".hivm").read_text() if key else ""
    return program, (grid[0], grid[1], grid[2])


def read(events: np.ndarray, grid: tuple[int, int, int], ub_bytes: int) -> Facts:
    """The facts of one launch's events."""
    kinds = events["kind"]
    moves = events[(kinds == trace.LOAD) | (kinds == trace.STORE)]
    scalars = events[(kinds == trace.SCALAR) & (events["bursts"] > 0)]  # the others access registers
    vectors = events[(kinds == trace.VECTOR) | (kinds == trace.COPY)]
    return Facts(
        grid=grid,
        ub_bytes=ub_bytes,
        transfers=tuple(_transfer(e) for e in moves),
        global_scalars=int((scalars["address"] != 0).sum()),
        buffer_scalars=int((scalars["address"] == 0).sum()),
        vector_operations=Counter(trace.name_of(int(name)) for name in vectors["name"]),
        pipes={name: _work(events, number) for number, name in enumerate(trace.PIPES[:-1])},
        flags=int((kinds == trace.SET).sum()),
        barriers=int((kinds == trace.BARRIER).sum()),
    )


def _transfer(event: np.void) -> Transfer:
    direction = LOAD if event["kind"] == trace.LOAD else STORE
    sizes = int(event["bursts"]), int(event["burst_bytes"])
    return Transfer(direction, int(event["address"]), *sizes, program=int(event["block"]))


def _work(events: np.ndarray, pipe: int) -> Work:
    own = events[(events["pipe"] == pipe) & (events["name"] != 0)]
    return Work(len(own), int(own["repeats"].sum()))
