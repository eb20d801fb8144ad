"""Comparisons and selections by them, compared with numpy."""

# ruff: noqa: F401, F811  (fixtures)
from typing import Any

import pytest

from tests.host_cann_tests.vector_core.core import UB, Core, Refused, built_core, core, np, one, two

TO, A, B, BITS, REGISTER = 0, 16 << 10, 32 << 10, 48 << 10, 49 << 10
TYPES = {"f32": np.float32, "f16": np.float16, "s32": np.int32}
COMPARE = {
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "GT": np.greater,
    "LE": np.less_equal,
    "GE": np.greater_equal,
}
NAMES = [(op, kind) for op in COMPARE for kind in ("f32", "f16")] + [("EQ", "s32")]


def packed_bits(x: Any) -> Any:
    return np.packbits(x, bitorder="little")


@pytest.mark.parametrize(("op", "kind"), NAMES)
def test_compare(core: Core, op: str, kind: str) -> None:
    """Bits of one repeat after the other, whatever the mask says; NaN is not even equal to itself."""
    dtype = TYPES[kind]
    lanes, repeats = 256 // np.dtype(dtype).itemsize, 3
    random = np.random.default_rng(2)
    x, y = (random.integers(-2, 3, repeats * lanes).astype(dtype) for _ in range(2))
    if kind[0] == "f":
        x[:4], y[:4] = np.nan, [np.nan, 0, np.nan, 0]
        x[4:6], y[4:6] = [np.inf, -0.0], [np.inf, 0.0]
    core.put(A, x), core.put(B, y)
    core.mask(1, 0)
    core.v(f"VCMPV.{op}.{kind}", TO, A, B, two(repeats, strides=(0, 8, 8)), at=3)
    assert np.array_equal(core.get(TO, repeats * lanes // 8, np.uint8), packed_bits(COMPARE[op](x, y)))
    value = dtype(1)
    arguments = (one(repeats, (1, 1), (0, 8)), value) if kind[0] == "f" else (1, one(repeats, (1, 1), (0, 8)))
    core.v(f"VCMPVS.{op}.{kind}", TO, A, *arguments, at=2)
    assert np.array_equal(core.get(TO, repeats * lanes // 8, np.uint8), packed_bits(COMPARE[op](x, value)))


def test_compare_takes_strides_and_whatever_lies_behind_the_last_lane(core: Core) -> None:
    x = np.arange(40, dtype=np.float32)
    core.put(A, x)
    core.v("VCMPVS.LT.f32", TO, A, one(1), np.float32(10), at=2)
    assert np.array_equal(core.get(TO, 5, np.uint8), packed_bits(x < 10))
    core.put(B, np.arange(256, dtype=np.float32))
    core.v("VCMPVS.LT.f32", TO, B, one(2, (1, 2), (0, 16)), np.float32(100), at=2)
    wanted = np.arange(256).reshape(32, 8)[::2].reshape(-1) < 100
    assert np.array_equal(core.get(TO, 16, np.uint8), packed_bits(wanted))


@pytest.mark.parametrize(("kind", "first"), [("f32", True), ("f32", False), ("f16", True), ("s32", False)])
def test_the_bits_may_take_an_operands_place(core: Core, kind: str, first: bool) -> None:
    dtype, repeats = TYPES[kind], 3
    lanes = 256 // np.dtype(dtype).itemsize
    x, y = np.random.default_rng(3).integers(0, 2, (2, repeats * lanes)).astype(dtype)
    core.put(A, x), core.put(B, y)
    core.v(f"VCMPV.EQ.{kind}", A if first else B, A, B, two(repeats, strides=(0, 8, 8)), at=3)
    assert np.array_equal(core.get(A if first else B, repeats * lanes // 8, np.uint8), packed_bits(x == y))


def test_the_bits_may_begin_behind_the_last_lane_and_are_certain_for_those_before_them(core: Core) -> None:
    x, y = np.arange(64, dtype=np.float16), np.zeros(128, np.float16)
    core.put(A, x), core.put(B, y)
    core.v("VCMPV.NE.f16", A + 128, A, B, two(1), at=3)
    assert np.array_equal(core.get(A + 128, 8, np.uint8), packed_bits(x != 0))
    assert core.known(A + 128, 8)
    assert not core.known(A + 136, 1), "of lanes that lie where the bits are now"


def test_comparisons_that_have_no_certain_meaning_are_refused(core: Core) -> None:
    core.put(0, np.zeros(256, np.float32))
    for to, repeats, stride in ((0, 2, 0), (32, 2, 8), (256, 2, 8)):
        with pytest.raises(Refused, match="overlap"):
            core.v("VCMPV.EQ.f32", to, 0, 4096, two(repeats, strides=(0, stride, 8)), at=3)
    with pytest.raises(Refused, match="overlap"):
        core.v("VCMPV.EQ.f32", 32, 0, 4096, two(1, blocks=(1, 2, 1)), at=3)
    with pytest.raises(Refused, match="unified buffer has"):
        core.v("VCMPV.EQ.f32", 4096, UB - 224, 0, two(1), at=3)
    core.count(64)
    with pytest.raises(Refused, match="counter mode"):
        core.v("VCMPV.EQ.f32", 4096, 0, 0, two(1), at=3)


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("total", [1, 63, 64, 100, 128, 300])
def test_select(core: Core, kind: str, mode: int, total: int) -> None:
    dtype = TYPES[kind]
    lanes = 256 // np.dtype(dtype).itemsize
    random = np.random.default_rng(total)
    x, y = (random.standard_normal(total).astype(dtype) for _ in range(2))
    chosen = random.integers(0, 2, total).astype(bool)
    core.put(A, x), core.put(B, y)
    if mode == 0:  # the same bits for each repeat
        chosen = np.resize(random.integers(0, 2, lanes).astype(bool), total)
        core.put(REGISTER, np.resize(packed_bits(np.resize(chosen, max(total, 1)))[: lanes // 8], 16))
        chosen = np.resize(
            np.unpackbits(core.get(REGISTER, lanes // 8, np.uint8), bitorder="little").astype(bool), total
        )
    elif mode == 1:
        core.put(REGISTER, np.array([dtype(7)]))
        core.put(BITS, packed_bits(chosen))
        y = np.full(total, 7, dtype)
    else:
        core.put(BITS, packed_bits(chosen))
        core.put(REGISTER, np.array([core.base + BITS], np.uint64))
    core.wait()
    core("SET.CMPMASK", core.base + REGISTER)
    core.count(total)
    core.v(f"VSEL.{kind}.1", TO, A, BITS if mode == 1 else B, two(0) | mode << 48, at=3)
    assert np.array_equal(core.get(TO, total, dtype), np.where(chosen, x, y))


def test_select_leaves_masked_lanes(core: Core) -> None:
    for at, value in ((TO, 0), (A, 1), (B, 2)):
        core.put(at, np.full(64, value, np.float32))
    core.put(REGISTER, np.array([0b1100, 0], np.uint64))
    core.wait()
    core("SET.CMPMASK", core.base + REGISTER)
    core.mask(0b0110, 0)
    core.v("VSEL.f32.1", TO, A, B, two(1), at=3)
    assert list(core.get(TO, 5, np.float32)) == [0, 2, 1, 0, 0]


def test_select_wants_what_it_takes_of_the_register(core: Core) -> None:
    core.put(A, np.ones(64, np.float32)), core.put(REGISTER, np.zeros(4, np.uint8))
    core.wait()
    core("SET.CMPMASK", core.base + REGISTER)
    with pytest.raises(Refused, match="of CMPMASK, and 4 were written"):
        core.v("VSEL.f32.1", TO, A, A, two(1) | 2 << 48, at=3)
    with pytest.raises(Refused, match="mode 3"):
        core.v("VSEL.f32.1", TO, A, A, two(1) | 3 << 48, at=3)
