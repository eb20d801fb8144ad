"""Instructions that compute each lane by itself, compared with numpy: masks, strides and repeats."""

# ruff: noqa: F401, F811  (fixtures)
from typing import Any

import pytest

from tests.host_cann_tests.vector_core.core import (
    ALL,
    REPEAT,
    UB,
    Core,
    Refused,
    built_core,
    core,
    lanes_at,
    np,
    one,
    places,
    store_lanes,
    two,
)

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

FAST = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TO, A, B = 0, 64 << 10, 128 << 10

TYPES = {"f32": np.float32, "f16": np.float16, "s32": np.int32, "s16": np.int16, "u16": np.uint16, "u32": np.uint32}
BINARY = {
    "VADD": lambda x, y: x + y,
    "VSUB": lambda x, y: x - y,
    "VMUL": lambda x, y: x * y,
    "VMAX": np.maximum,
    "VMIN": np.minimum,
    "VDIV": lambda x, y: x / y,
    "VAND": lambda x, y: x & y,
    "VOR": lambda x, y: x | y,
}
TWO = [f"{op}.{t}" for op in ("VADD", "VSUB", "VMUL", "VMAX", "VMIN") for t in ("f32", "f16", "s32", "s16")]
TWO += ["VDIV.f32", "VDIV.f16", "VAND.s16", "VAND.u16", "VOR.s16", "VOR.u16"]


def numbers(kind: str, count: int, seed: int, small: bool = False) -> Any:
    random = np.random.default_rng(seed)
    if kind[0] == "f":
        return random.standard_normal(count).astype(TYPES[kind]) * TYPES[kind](4)
    info = np.iinfo(TYPES[kind])
    limit = 120 if small else info.max
    return random.integers(-limit if info.min < 0 else 0, limit, count, TYPES[kind])


def active(low: int, high: int, repeats: int, lanes: int, counted: int | None) -> Any:
    if counted is not None:
        return (np.arange(repeats * lanes) < counted).reshape(repeats, lanes)
    mask = [bool((low | high << 64) >> i & 1) for i in range(lanes)]
    return np.array([mask] * repeats).reshape(repeats, lanes)


MASKS = st.one_of(st.just(ALL), st.integers(0, ALL), st.integers(0, 64).map(lambda n: (1 << n) - 1))


@pytest.mark.parametrize("name", TWO)
@FAST
@given(
    blocks=st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3)),
    strides=st.tuples(st.integers(24, 30), st.integers(0, 30), st.integers(0, 30)),
    repeats=st.integers(0, 5), low=MASKS, high=MASKS, counted=st.none() | st.integers(0, 600), seed=st.integers(0, 9),
)  # fmt: skip
def test_two_sources(
    core: Core, name: str, blocks: Any, strides: Any, repeats: int, low: int, high: int, counted: int | None, seed: int
) -> None:
    op, kind = name.split(".")
    dtype = TYPES[kind]
    lanes = REPEAT // np.dtype(dtype).itemsize
    core.start()
    for i, at in enumerate((TO, A, B)):
        core.put(at, numbers(kind, (64 << 10) // np.dtype(dtype).itemsize, seed + i, small=True))
    if counted is None:
        core.mask(low, high)
    else:
        core.count(counted)
    expected = core.ub.copy()
    n = -(-counted // lanes) if counted is not None else repeats
    where = [
        places(at, b, s, n, lanes, np.dtype(dtype).itemsize)
        for at, b, s in zip((TO, A, B), blocks, strides, strict=True)
    ]
    with np.errstate(all="ignore"):
        result = BINARY[op](lanes_at(expected, where[1], dtype), lanes_at(expected, where[2], dtype)).astype(dtype)
    store_lanes(expected, where[0], active(low, high, n, lanes, counted), result)
    core.v(name, TO, A, B, two(repeats, blocks, strides), at=3)
    assert np.array_equal(core.ub, expected)


UNARY = {
    "VNOT.s16": np.invert, "VNOT.u16": np.invert, "VABS.f32": np.abs, "VABS.f16": np.abs,
    "VRELU.f32": lambda x: np.maximum(x, 0), "VRELU.s32": lambda x: np.maximum(x, 0),
    "VRELU.f16": lambda x: np.maximum(x, np.float16(0)),
    "VSQRT.f32": np.sqrt, "VSQRT.f16": np.sqrt,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
@FAST
@given(
    blocks=st.tuples(st.integers(1, 300), st.integers(0, 300)),
    strides=st.tuples(st.integers(0, 600), st.integers(0, 600)),
    low=MASKS,
    high=MASKS,
    seed=st.integers(0, 9),
)
def test_one_source(core: Core, name: str, blocks: Any, strides: Any, low: int, high: int, seed: int) -> None:
    """Strides of one source have more bits."""
    kind = name.split(".")[1]
    dtype = TYPES[kind]
    size = np.dtype(dtype).itemsize
    lanes, to, a = REPEAT // size, 0, 96 << 10
    repeats = 1 if max(blocks) > 8 else 3
    strides = (max(strides[0], 8 * blocks[0]), strides[1]) if repeats > 1 else strides
    if repeats > 1:
        strides = tuple(s % 600 for s in strides)
    core.start()
    core.put(to, numbers(kind, UB // size, seed, small=True))
    core.mask(low, high)
    expected = core.ub.copy()
    where = [places(at, b, s, repeats, lanes, size) for at, b, s in zip((to, a), blocks, strides, strict=True)]
    with np.errstate(all="ignore"):
        result = UNARY[name](lanes_at(expected, where[1], dtype)).astype(dtype)
    store_lanes(expected, where[0], active(low, high, repeats, lanes, None), result)
    core.v(name, to, a, one(repeats, blocks, strides), at=2)
    if kind[0] == "f":
        got, wanted = core.ub.view(dtype), expected.view(dtype)
        assert np.array_equal(got, wanted, equal_nan=True)
    else:
        assert np.array_equal(core.ub, expected)


@pytest.mark.parametrize("op", ["VADDS", "VMULS", "VMAXS", "VMINS"])
@pytest.mark.parametrize("kind", ["f32", "f16", "s32", "s16"])
def test_with_a_value(core: Core, op: str, kind: str) -> None:
    dtype = TYPES[kind]
    x, k = numbers(kind, 300, 3, small=True), dtype(-7)
    core.put(A, x)
    core.count(300)
    core.v(f"{op}.{kind}", TO, A, *((one(1), k) if kind[0] == "f" else (int(k), one(1))), at=2)
    assert np.array_equal(core.get(TO, 300, dtype), BINARY[op[:-1]](x, k).astype(dtype))


@pytest.mark.parametrize("kind", ["s32", "u32", "s16", "u16"])
@pytest.mark.parametrize("by", [0, 1, 7, 15])
def test_shifts(core: Core, kind: str, by: int) -> None:
    x = numbers(kind, 500, by)
    core.put(A, x)
    core.count(500)
    core.v(f"VSHL.{kind}", TO, A, by, one(1), at=2)
    assert np.array_equal(core.get(TO, 500, x.dtype), x << x.dtype.type(by))
    core.v(f"VSHR.{kind}", TO, A, by, one(1), 0, at=2)
    assert np.array_equal(core.get(TO, 500, x.dtype), x >> x.dtype.type(by))
    for op, more in (("VSHL", ()), ("VSHR", (0,))):
        with pytest.raises(Refused, match="not known"):
            core.v(f"{op}.{kind}", TO, A, 8 * x.dtype.itemsize, one(1), *more, at=2)
    with pytest.raises(Refused, match="rounding"):
        core.v(f"VSHR.{kind}", TO, A, by, one(1), 1, at=2)


@pytest.mark.parametrize("name", ["VADD", "VSUB", "VMUL", "VDIV"])
def test_halves_round_once(core: Core, name: str) -> None:
    """Every half with another one: the result is that of float64, rounded once."""
    x = np.arange(65536, dtype=np.uint16)
    y = np.random.default_rng(1).permutation(x)
    for i in range(0, 65536, 1 << 14):
        a, b = x[i : i + (1 << 14)], y[i : i + (1 << 14)]
        core.put(A, a), core.put(B, b)
        core.v(f"{name}.f16", TO, A, B, two(128), at=3)
        with np.errstate(all="ignore"):
            wanted = BINARY[name](a.view(np.float16).astype(np.float64), b.view(np.float16).astype(np.float64)).astype(
                np.float16
            )
        got = core.get(TO, len(a), np.float16)
        assert np.array_equal(got, wanted, equal_nan=True)
        known = ~np.isnan(wanted)
        assert np.array_equal(got.view(np.uint16)[known], wanted.view(np.uint16)[known])


@pytest.mark.parametrize("name", ["VREC", "VRSQRT", "VEXP", "VLN"])
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_functions_are_close(core: Core, name: str, kind: str) -> None:
    x = np.abs(numbers(kind, 128, 5)) + TYPES[kind](0.1)
    core.put(A, x)
    core.count(128)
    core.v(f"{name}.{kind}", TO, A, one(1), at=2)
    wide = x.astype(np.float64)
    wanted = {"VREC": 1 / wide, "VRSQRT": wide**-0.5, "VEXP": np.exp(wide), "VLN": np.log(wide)}[name]
    assert np.allclose(
        core.get(TO, 128, TYPES[kind]),
        wanted,
        rtol=2.0 ** (-22 if kind == "f32" else -9),
        atol=1e-3 if kind == "f16" else 1e-7,
    )


def test_overflow_of_halves_saturates_only_on_request(core: Core) -> None:
    core.put(A, np.array([60000, np.inf, -60000, np.nan] * 32, np.float16))
    core.put(B, np.array([60000, -np.inf, -60000, 1] * 32, np.float16))
    core.v("VADD.f16", TO, A, B, two(1), at=3)
    assert np.array_equal(
        core.get(TO, 4, np.float16), np.array([np.inf, np.nan, -np.inf, np.nan], np.float16), equal_nan=True
    )
    core.saturate()
    core.v("VADD.f16", TO, A, B, two(1), at=3)
    assert np.array_equal(core.get(TO, 4, np.float16), np.array([65504, 0, -65504, 0], np.float16))


def test_in_place(core: Core) -> None:
    x = numbers("f32", 640, 1)
    core.put(A, x)
    core.v("VMUL.f32", A, A, A, two(10), at=3)
    assert np.array_equal(core.get(A, 640, np.float32), x * x)


def test_a_repeat_may_add_to_what_the_last_one_wrote(core: Core) -> None:
    """Through the second source, its stride 0: the library's sums over rows."""
    rows = numbers("f32", 64 * 6, 2).reshape(6, 64)
    core.put(A, rows), core.put(TO, np.zeros(64, np.float32))
    core.v("VADD.f32", TO, A, TO, two(6, strides=(0, 8, 0)), at=3)
    total = np.zeros(64, np.float32)
    for row in rows:
        total = row + total
    assert np.array_equal(core.get(TO, 64, np.float32), total)


def test_what_has_no_certain_result_is_refused(core: Core) -> None:
    core.put(0, np.ones(4096, np.float32))
    with pytest.raises(Refused, match="earlier one"):
        core.v("VADD.f32", 256, 0, 16384 - 256, two(4), at=3)
    with pytest.raises(Refused, match="earlier one"):  # the first source may not
        core.v("VADD.f32", 0, 0, 8192, two(4, strides=(0, 0, 8)), at=3)
    with pytest.raises(Refused, match="in part"):
        core.v("VADD.f32", 32, 0, 8192, two(1), at=3)
    with pytest.raises(Refused, match="stride of 0"):
        core.v("VADD.f32", 0, 4096, 8192, two(1, blocks=(0, 1, 1)), at=3)
    with pytest.raises(Refused, match="aligned"):
        core.v("VADD.f32", 4, 4096, 8192, two(1), at=3)
    core.put(0, np.full(64, 2**31 - 1, np.int32))
    for op in ("VADD", "VMUL"):
        with pytest.raises(Refused, match="overflow"):
            core.v(f"{op}.s32", 4096, 0, 0, two(1), at=3)
    core.put(0, np.full(64, np.nan, np.float32))
    with pytest.raises(Refused, match="NaN"):
        core.v("VMAX.f32", 4096, 0, 0, two(1), at=3)


def test_reads_and_writes_stay_inside_and_know_what_was_written(core: Core) -> None:
    core.put(0, np.ones(64, np.float32))
    core.put(256, np.ones(60, np.float32))
    core.v("VADD.f32", 4096, 0, 256, two(1), at=3)  # of the last four lanes' operands nobody wrote the second
    assert core.known(4096, 240)
    assert not any(core.known(4096 + i, 1) for i in range(240, 256))
    with pytest.raises(Refused, match="unified buffer has"):
        core.v("VADD.f32", UB - 128, 0, 0, two(1), at=3)
    with pytest.raises(Refused, match="unified buffer has"):
        core.v("VADD.f32", 4096, -32, 0, two(1), at=3)
    core.mask(0xFF, 0)  # masked lanes are not touched
    core.v("VADD.f32", UB - 32, 0, 0, two(1), at=3)
    assert np.array_equal(core.get(UB - 32, 8, np.float32), np.full(8, 2, np.float32))
