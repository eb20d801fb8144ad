"""Transfers and filling, compared with numpy."""

# ruff: noqa: F401, F811  (fixtures)
from typing import Any

import pytest

from tests.host_cann_tests.vector_core.core import (
    ALL,
    BLOCK,
    KEEPS_INFINITY,
    UB,
    Core,
    Refused,
    built_core,
    core,
    np,
    one,
)

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOBODYS = 0xA5
LANE = {"b8": 1, "b16": 2, "b32": 4}


def sizes(bursts: int, length: int, left: int = 0, right: int = 0) -> int:
    return bursts << 4 | length << 16 | left << 48 | right << 54


@pytest.mark.parametrize("kind", LANE)
@FAST
@given(
    bursts=st.integers(1, 6), elements=st.integers(1, 70), left=st.integers(0, 8), right=st.integers(0, 8),
    gap=st.integers(0, 50), to_gap=st.integers(0, 3), pad=st.integers(0, ALL),
)  # fmt: skip
def test_load(
    core: Core, kind: str, bursts: int, elements: int, left: int, right: int, gap: int, to_gap: int, pad: int
) -> None:
    lane = LANE[kind]
    length = elements * lane
    source = np.random.default_rng(elements).integers(0, 256, bursts * (length + gap), np.uint8)
    used = (left + right) * lane + length
    whole = -(-used // BLOCK) * BLOCK
    core.start()
    core.ub[:] = 0
    core("SET.MOV.PAD.VAL", pad)
    core.v(
        f"MOV.OUT.TO.UB.ALIGN.{kind}.V220",
        64,
        source.ctypes.data,
        sizes(bursts, length, left, right),
        gap | to_gap << 32,
    )
    padding = np.frombuffer(pad.to_bytes(8, "little")[:lane], np.uint8)
    wanted = np.zeros(UB, np.uint8)
    for i in range(bursts):
        row = np.full(whole, NOBODYS, np.uint8)
        burst = source[i * (length + gap) :][:length]
        row[:used] = np.concatenate([np.tile(padding, left), burst, np.tile(padding, right)])
        wanted[64 + i * (whole + to_gap * BLOCK) :][:whole] = row
    assert np.array_equal(core.ub, wanted)


@pytest.mark.parametrize("kind", LANE)
@FAST
@given(bursts=st.integers(1, 6), length=st.integers(1, 200), gap=st.integers(0, 50), from_gap=st.integers(0, 3))
def test_store(core: Core, kind: str, bursts: int, length: int, gap: int, from_gap: int) -> None:
    core.start()
    core.put(0, np.random.default_rng(length).integers(0, 256, 4096, np.uint8))
    to = np.zeros(bursts * (length + gap), np.uint8)
    core.wait()
    core(
        f"MOV.UB.TO.OUT.ALIGN.{kind}.V220", to.ctypes.data, core.base + 32, sizes(bursts, length), from_gap | gap << 32
    )
    wanted = np.zeros_like(to)
    for i in range(bursts):
        row = core.ub[32 + i * (-(-length // BLOCK) + from_gap) * BLOCK :][:length]
        wanted[i * (length + gap) :][:length] = row
    assert np.array_equal(to, wanted)


def test_transfers_that_have_no_certain_meaning_are_refused(core: Core) -> None:
    memory = np.zeros(4096, np.uint8)
    core.put(0, memory)
    load, store = "MOV.OUT.TO.UB.ALIGN.b16.V220", "MOV.UB.TO.OUT.ALIGN.b16.V220"
    for bursts, length in ((0, 32), (1, 0)):
        with pytest.raises(Refused, match="not defined"):
            core.v(load, 0, memory.ctypes.data, sizes(bursts, length), 0)
    with pytest.raises(Refused, match="more than a block"):
        core.v(load, 0, memory.ctypes.data, sizes(1, 32, left=17), 0)
    with pytest.raises(Refused, match="aligned"):
        core.v(load, 16, memory.ctypes.data, sizes(1, 32), 0)
    with pytest.raises(Refused, match="unified buffer has"):
        core.v(load, UB - 32, memory.ctypes.data, sizes(2, 32), 0)
    with pytest.raises(Refused, match="padding"):
        core.v(store, memory.ctypes.data, core.base, sizes(1, 32, left=1), 0, at=0)
    core.wait()
    with pytest.raises(Refused, match="nobody wrote"):
        core(store, memory.ctypes.data, core.base + 8192, sizes(1, 32), 0)
    for kind in (2, 3, 5, 6, 7):  # f16, s16, s8, bf16 and nothing known
        core.c.test_control()[0] = KEEPS_INFINITY | kind << 6
        with pytest.raises(Refused, match="atomic"):
            core(store, memory.ctypes.data, core.base, sizes(1, 32), 0)


ATOMIC = {
    "add": (0, np.add), "max": (1, np.maximum), "min": (2, np.minimum),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("operation", ATOMIC)
def test_an_atomic_store_changes_what_is_there(core: Core, operation: str, dtype: Any) -> None:
    code, wanted = ATOMIC[operation]
    lanes = np.random.default_rng(0).integers(-1000, 1000, (2, 3, 5)).astype(dtype)
    core.start()
    core.put(0, np.pad(lanes[0], ((0, 0), (0, 3))))
    core.c.test_control()[0] |= {np.int32: 4, np.float32: 1}[dtype] << 6 | code << 9
    to = lanes[1].copy()
    core("MOV.UB.TO.OUT.ALIGN.b32.V220", to.ctypes.data, core.base, sizes(3, 20), 0)
    assert np.array_equal(to, wanted(lanes[0], lanes[1]))
    core.c.test_control()[0] &= ~(7 << 6) & ALL  # as the library does: what was to be done stays there
    core("MOV.UB.TO.OUT.ALIGN.b32.V220", to.ctypes.data, core.base, sizes(3, 20), 0)
    assert np.array_equal(to, lanes[0])


@pytest.mark.parametrize(
    ("dtype", "kind", "values"),
    [(np.int32, 4, (2**31 - 1, 1)), (np.float32, 1 | 1 << 3, (np.nan, 1)), (np.int32, 4 | 3 << 3, (1, 1))],
)
def test_atomic_results_that_no_document_gives_are_refused(core: Core, dtype: Any, kind: int, values: Any) -> None:
    """A sum that overflows, the larger one of NaN and a number, and an operation without a name."""
    core.start()
    core.put(0, np.full(8, values[0], dtype))
    core.c.test_control()[0] |= kind << 6
    to = np.full(8, values[1], dtype)
    with pytest.raises(Refused, match="atomic"):
        core("MOV.UB.TO.OUT.ALIGN.b32.V220", to.ctypes.data, core.base, sizes(1, 32), 0)


@FAST
@given(bursts=st.integers(1, 5), blocks=st.integers(1, 6), from_gap=st.integers(0, 4), to_gap=st.integers(0, 4))
def test_copy(core: Core, bursts: int, blocks: int, from_gap: int, to_gap: int) -> None:
    core.start()
    core.put(0, np.random.default_rng(blocks).integers(0, 256, 8192, np.uint8))
    wanted = core.ub.copy()
    for i in range(bursts):
        burst = wanted[i * (blocks + from_gap) * BLOCK :][: blocks * BLOCK].copy()
        wanted[4096 + i * (blocks + to_gap) * BLOCK :][: blocks * BLOCK] = burst
    core.v("MOV.UB.TO.UB.v220", 4096, 0, bursts << 4 | blocks << 16 | from_gap << 32 | to_gap << 48, at=2)
    assert np.array_equal(core.ub, wanted)


def test_a_copy_onto_part_of_itself_is_refused(core: Core) -> None:
    core.put(0, np.zeros(256, np.uint8))
    with pytest.raises(Refused, match="overlap"):
        core.v("MOV.UB.TO.UB.v220", 32, 0, 1 << 4 | 2 << 16, at=2)


HALF = np.float16(-2.5)
VALUES: dict[str, tuple[Any, Any]] = {
    "s16": (-7 & ALL, np.int16(-7)),
    "u16": (0xFFF0, np.uint16(0xFFF0)),
    "s32": (-7 & ALL, np.int32(-7)),
    "u32": (7, np.uint32(7)),
    "f32": (np.float32(1.5), np.float32(1.5)),
    "f16": (HALF, HALF),
    "bf16": (HALF, HALF),
}


@pytest.mark.parametrize("kind", VALUES)
def test_fill(core: Core, kind: str) -> None:
    """A bfloat16 is passed as its bits: here those of a half."""
    argument, value = VALUES[kind]
    core.ub[:] = 0
    core.count(300)
    arguments = (one(1), argument) if isinstance(argument, np.floating) else (argument, one(1))
    core.v(f"MOVEV.{kind}", 64, *arguments)
    got = core.ub[64:].view(value.dtype)
    assert (got[:300] == value).all()
    assert not got[300:].any()


@pytest.mark.parametrize(("kind", "size"), [("b16", 2), ("b32", 4)])
@FAST
@given(repeats=st.integers(0, 4), block=st.integers(1, 4), stride=st.integers(32, 300))
def test_values_into_blocks(core: Core, kind: str, size: int, repeats: int, block: int, stride: int) -> None:
    core.start()
    x = np.random.default_rng(repeats).integers(0, 2**15, 8 * 4, np.uint16 if size == 2 else np.uint32)
    core.ub[:] = 0
    core.put(0, x)
    wanted = core.ub.copy()
    for r in range(repeats):
        for i in range(8):
            wanted[256 + (r * stride + i * block) * BLOCK :][:BLOCK] = np.tile(
                x[8 * r + i : 8 * r + i + 1].view(np.uint8), BLOCK // size
            )
    core.v(f"VBRCB.{kind}", 256, 0, one(repeats, (block, 0), (stride, 0)), at=2)
    assert np.array_equal(core.ub, wanted)
