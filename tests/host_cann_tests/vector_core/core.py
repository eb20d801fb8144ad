"""The C functions of the vector core's instructions (``host_cann/hivmc/core``), called one at a time from Python."""

import ctypes
import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="the vector core's references are written in numpy")

SOURCES = Path(__file__).parents[2] / "host_cann" / "hivmc" / "core"
OPTIONS = ("-O2", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
UB, BLOCK, REPEAT = 192 << 10, 32, 256
ALL = 2**64 - 1
S, V, MTE2 = 0, 1, 4
COUNTS, KEEPS_INFINITY = 1 << 56, 1 << 48

# An instruction fails by a long jump, which may not cross Python's frames. Integers and floating point travel in
# registers of their own on x86-64 and on AArch64, whatever order a function names them in.
DRIVER = """
#include "core.h"
#include <setjmp.h>
void core_escape_to(sigjmp_buf *where);
const char *core_message(void);
typedef void instruction(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, float);
const char *try_call(instruction *called, const uint64_t *a, float x) {
  sigjmp_buf here;
  bool failed = sigsetjmp(here, 0);
  if (!failed) core_escape_to(&here), called(a[0], a[1], a[2], a[3], a[4], x);
  core_escape_to(NULL);
  return failed ? core_message() : NULL;
}
void test_write(uint64_t at, uint64_t bytes) {
  core_begin("the test", PIPE_MTE2);
  core_write((char *)core_buffer() + at, bytes);
}
uint64_t *test_control(void) { return &core_registers.control; }
"""


class Refused(Exception):
    """An instruction refuses a call whose meaning is not certain."""


class Core:
    """A vector core. Addresses are offsets in the unified buffer."""

    def __init__(self, library: Path) -> None:
        self.c = ctypes.CDLL(str(library))
        self.c.core_buffer.restype = ctypes.c_void_p
        self.c.try_call.restype = ctypes.c_char_p
        self.c.test_control.restype = ctypes.POINTER(ctypes.c_uint64)
        self.base: int = self.c.core_buffer()
        self.ub = np.frombuffer((ctypes.c_uint8 * UB).from_address(self.base), np.uint8)
        self.start()

    def start(self) -> None:
        """Begin a new program: the unified buffer is empty, and all lanes are enabled."""
        self.c.core_start_registers(ctypes.c_uint64(0))
        self.c.core_start_order(False)

    def put(self, at: int, values: Any) -> None:
        """Write an array into the unified buffer, ordered with everything before and after it."""
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.wait()
        self.c.test_write(ctypes.c_uint64(at), ctypes.c_uint64(raw.nbytes))
        self.ub[at : at + raw.nbytes] = raw
        self.wait()

    def known(self, at: int, count: int) -> bool:
        """Whether the program wrote all of it, and of nothing that it had not written."""
        self.c.core_known.restype = ctypes.c_bool
        return bool(self.c.core_known(ctypes.c_void_p(self.base + at), ctypes.c_size_t(count)))

    def get(self, at: int, count: int, dtype: Any) -> Any:
        return self.ub[at : at + count * np.dtype(dtype).itemsize].view(dtype).copy()

    def wait(self) -> None:
        self.c.core_pipe_barrier(ctypes.c_uint64(6), ctypes.c_uint32(0))

    def mask(self, low: int = ALL, high: int = ALL) -> None:
        self("MOVEMASK", 1, high)
        self("MOVEMASK", 0, low)

    def count(self, elements: int) -> None:
        """Counter mode."""
        self.c.test_control()[0] |= COUNTS
        self("MOVEMASK", 0, elements)

    def saturate(self) -> None:
        self.c.test_control()[0] &= ~KEEPS_INFINITY & ALL

    def __call__(self, name: str, *arguments: Any) -> None:
        """Run one instruction: integers, then at most one float32, or float16, value."""
        value = arguments[-1] if arguments and isinstance(arguments[-1], np.floating) else np.float32(0)
        numbers = [a for a in arguments if not isinstance(a, np.floating)] + [0] * 5
        if isinstance(value, np.float16):
            value = np.array([value, 0], np.float16).view(np.float32)[0]
        passed = (ctypes.c_uint64 * 5)(*(int(n) & ALL for n in numbers[:5]))
        instruction = getattr(self.c, "hivm_" + name.replace(".", "_"))
        said = self.c.try_call(ctypes.cast(instruction, ctypes.c_void_p), passed, ctypes.c_float(value))
        if said:
            raise Refused(said.decode())

    def v(self, name: str, *arguments: Any, at: int = 1) -> None:
        """A vector instruction: its first ``at`` numbers are offsets in the unified buffer. All before it is over."""
        self.wait()
        self(name, *(self.base + a if i < at else a for i, a in enumerate(arguments)))


@pytest.fixture(scope="session")
def built_core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build the vector core with")
    return build(tmp_path_factory.getbasetemp() / "vector_core")


@functools.cache  # each file that imports the fixture has one of its own
def build(out: Path) -> Core:
    out.mkdir()
    (out / "driver.c").write_text(DRIVER)
    sources = [*sorted(SOURCES.glob("*.c")), out / "driver.c"]
    objects = [str(out / f"{source.stem}.o") for source in sources]
    commands = [["gcc", *OPTIONS, "-c", f"-I{SOURCES}", str(s), "-o", o] for s, o in zip(sources, objects, strict=True)]
    started = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in started] == [0] * len(started)
    subprocess.run(["gcc", "-shared", *objects, "-lm", "-o", str(out / "core.so")], check=True)
    return Core(out / "core.so")


@pytest.fixture
def core(built_core: Core) -> Core:
    built_core.start()
    return built_core


def two(repeats: int, blocks: tuple[int, int, int] = (1, 1, 1), strides: tuple[int, int, int] = (8, 8, 8)) -> int:
    """The last operand of an instruction with two sources: destination, first, second."""
    low = sum(b << 8 * i for i, b in enumerate(blocks)) | sum(s << 24 + 8 * i for i, s in enumerate(strides))
    return low | repeats << 56


def one(repeats: int, blocks: tuple[int, int] = (1, 1), strides: tuple[int, int] = (8, 8)) -> int:
    """The same with one source."""
    to, source = strides
    return blocks[0] | blocks[1] << 16 | (to & 255) << 32 | (to >> 8) << 52 | source << 40 | repeats << 56


def places(at: int, block: int, stride: int, repeats: int, lanes: int, size: int) -> Any:
    """The first byte of each lane of each repeat."""
    r, i = np.arange(repeats)[:, None], np.arange(lanes)[None]
    per_block = BLOCK // size
    return at + r * stride * BLOCK + i // per_block * block * BLOCK + i % per_block * size


def lanes_at(memory: Any, where: Any, dtype: Any) -> Any:
    size = np.dtype(dtype).itemsize
    return memory[where[..., None] + np.arange(size)].view(dtype)[..., 0]


def store_lanes(memory: Any, where: Any, active: Any, values: Any) -> None:
    """One repeat after the other."""
    raw = np.ascontiguousarray(values)[..., None].view(np.uint8)
    for r in range(len(where)):
        at = where[r][active[r]]
        memory[at[:, None] + np.arange(raw.shape[-1])] = raw[r][active[r]]
