"""VCONV compared with independent references: every half, every bfloat16, and the values halfway between two."""

# ruff: noqa: F401, F811  (fixtures)
from typing import Any

import pytest

from tests.host_cann_tests.vector_core.core import Core, Refused, built_core, core, np, one

TO, FROM = 0, 96 << 10
MODES = "rafcz"


def convert(core: Core, name: str, values: Any, dtype: Any) -> Any:
    """All of them, in counter mode, as many at a time as the unified buffer holds."""
    out = np.empty(len(values), dtype)
    wide = max(values.dtype.itemsize, out.itemsize)
    blocks = (1, 1)
    strides = (8 * out.itemsize // wide, 8 * values.dtype.itemsize // wide)
    step = (64 << 10) // wide
    for i in range(0, len(values), step):
        part = values[i : i + step]
        core.put(FROM, part)
        core.count(len(part))
        core.v(f"VCONV.{name}.v220", TO, FROM, one(1, blocks, strides), at=2)
        out[i : i + step] = core.get(TO, len(part), dtype)
    return out


def bits(x: Any) -> Any:
    return x.view(np.uint16)


def half_values() -> Any:
    return np.arange(65536, dtype=np.uint32).astype(np.uint16).view(np.float16)


def rounded(x: Any, table: Any, odd: Any, mode: str) -> Any:
    """The index in a rising table of numbers that each x goes to; ``odd`` tells entries whose last bit is 1."""
    high = np.searchsorted(table, x, "left").clip(0, len(table) - 1)
    low = (np.searchsorted(table, x, "right") - 1).clip(0, len(table) - 1)
    below, above = x - table[low], table[high] - x
    nearer = np.where(below < above, low, high)
    if mode == "r":
        return np.where(below == above, np.where(odd[low], high, low), nearer)
    if mode == "a":
        return np.where(below == above, np.where(x < 0, low, high), nearer)
    if mode == "o":
        return np.where(odd[low], low, high)
    return {"f": low, "c": high, "z": np.where(x < 0, high, low)}[mode]


def numbers_of(kind: str) -> tuple[Any, Any]:
    """All finite ones rising, and infinity as the number that would come next; their patterns."""
    if kind == "f16":
        patterns = np.arange(0x7C01, dtype=np.uint16)
        sizes = patterns.view(np.float16).astype(np.float64)
        sizes[-1] = 65536
    else:
        patterns = np.arange(0x7F81, dtype=np.uint16)
        sizes = (patterns.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        sizes[-1] = 2.0**128
    return np.concatenate([-sizes[:0:-1], sizes]), np.concatenate([patterns[:0:-1] | 0x8000, patterns])


def around(table: Any) -> Any:
    """Each number, values a quarter, half and three quarters of the way to the next, and the floats next to those."""
    steps = np.diff(table)
    points = np.concatenate([table, *(table[:-1] + steps * part for part in (0.25, 0.5, 0.75))])
    with np.errstate(over="ignore"):
        x = points.astype(np.float32)
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
    extra = [3.4e38, -3.4e38, 1e-45, -1e-45, 65504, 65519.996, 65520, 65535.996, 2.0**-25, 2.0**-26, -(2.0**-25)]
    x = np.concatenate(
        [x, np.array(extra, np.float32), np.random.default_rng(0).integers(0, 2**32, 4096, np.uint32).view(np.float32)]
    )
    return x[np.isfinite(x)]


@pytest.mark.parametrize(("kind", "mode"), [("f16", "o"), *((k, m) for k in ("f16", "bf16") for m in MODES)])
def test_floats_to_narrower_ones(core: Core, kind: str, mode: str) -> None:
    table, patterns = numbers_of(kind)
    x = around(table)[:: 1 if kind == "f16" else 3]
    got = convert(core, f"f322{kind}{mode}", x, np.uint16)
    wide = x.astype(np.float64).clip(table[0], table[-1])
    wanted = patterns[rounded(wide, table, (patterns & 1).astype(bool), mode)]
    if mode in "fzco":  # what rounds toward the finite ones never gets past the largest
        largest = patterns[-2]
        over = x.astype(np.float64) > table[-2]
        under = x.astype(np.float64) < table[1]
        wanted[over & np.isin(mode, ["f", "z", "o"])] = largest
        wanted[under & np.isin(mode, ["c", "z", "o"])] = largest | 0x8000
        wanted[over & (mode == "c")] = patterns[-1]
        wanted[under & (mode == "f")] = patterns[0]
    wanted = np.where(wanted & 0x7FFF == 0, np.where(np.signbit(x), 0x8000, 0), wanted)
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_infinity_and_nan_in_both_modes(core: Core, kind: str) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 3.4028235e38], np.float32)
    infinity, largest = {"f16": (0x7C00, 0x7BFF), "bf16": (0x7F80, 0x7F7F)}[kind]
    got = convert(core, f"f322{kind}r", x, np.uint16)
    assert list(got[:2]) == [infinity, infinity | 0x8000]
    assert got[2] & 0x7FFF > infinity
    core.saturate()
    got = convert(core, f"f322{kind}r", x, np.uint16)
    assert list(got[:3]) == [largest, largest | 0x8000, 0]
    assert got[3] == largest


def test_to_float_is_exact(core: Core) -> None:
    halves = half_values()
    got = convert(core, "f162f32", halves, np.float32)
    assert np.array_equal(got, halves.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(halves))
    raw = np.arange(65536, dtype=np.uint32)
    assert np.array_equal(convert(core, "bf162f32", raw.astype(np.uint16), np.uint32), raw << 16)
    shorts = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(convert(core, "s162f32", shorts, np.float32), shorts.astype(np.float32))
    for name, kind in (("s82f16", np.int8), ("u82f16", np.uint8)):
        x = np.arange(256).astype(kind)
        assert np.array_equal(convert(core, name, x, np.float16), x.astype(np.float16))


def whole(x: Any, mode: str) -> Any:
    x = x.astype(np.float64)
    away = np.sign(x) * np.floor(np.abs(x) + 0.5)
    return {"r": np.rint, "f": np.floor, "c": np.ceil, "z": np.trunc, "a": lambda _: away}[mode](x)


LIMITS = {"s8": np.int8, "u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64}


def saturated(x: Any, kind: str) -> Any:
    info = np.iinfo(LIMITS[kind])
    exact = [int(v) if np.isfinite(v) else (info.max if v > 0 else info.min) for v in x]
    return np.array([min(max(v, info.min), info.max) for v in exact], LIMITS[kind])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("to", ["s8", "u8", "s16", "s32"])
def test_halves_to_integers(core: Core, to: str, mode: str) -> None:
    x = half_values()
    x = x[~np.isnan(x) & ((x >= 0) | (to != "u8"))]
    assert np.array_equal(convert(core, f"f162{to}{mode}", x, LIMITS[to]), saturated(whole(x, mode), to))


@pytest.mark.parametrize("mode", MODES)
def test_bfloats_to_integers(core: Core, mode: str) -> None:
    raw = np.arange(65536, dtype=np.uint32)
    x = (raw << 16).view(np.float32)
    known = ~np.isnan(x)
    got = convert(core, f"bf162s32{mode}", raw[known].astype(np.uint16), np.int32)
    assert np.array_equal(got, saturated(whole(x[known], mode), "s32"))


def edges() -> Any:
    points = np.concatenate(
        [
            np.arange(-5, 5, 0.25),
            *(
                s * 2.0**e + np.array([-1, -0.5, 0, 0.5, 1])
                for s in (1, -1)
                for e in (15, 22, 23, 24, 31, 32, 62, 63, 64)
            ),
        ]
    )
    x = points.astype(np.float32)
    x = np.concatenate(
        [
            x,
            np.nextafter(x, np.float32(np.inf)),
            np.nextafter(x, np.float32(-np.inf)),
            np.array([np.inf, -np.inf, -0.0], np.float32),
        ]
    )
    return np.concatenate(
        [
            x,
            (
                np.random.default_rng(3).standard_normal(2000) * 10.0 ** np.random.default_rng(4).uniform(-2, 20, 2000)
            ).astype(np.float32),
        ]
    )


@pytest.mark.parametrize("mode", MODES)
def test_floats_to_integers(core: Core, mode: str) -> None:
    x = edges()
    for to in ("s16", "s32", "s64"):
        assert np.array_equal(convert(core, f"f322{to}{mode}", x, LIMITS[to]), saturated(whole(x, mode), to))
    got, wanted = convert(core, f"f322f32{mode}", x, np.float32), whole(x, mode)
    assert np.array_equal(got, wanted)
    assert np.array_equal(np.signbit(got), np.signbit(x))


def float_near(x: int, mode: str) -> float:
    near = np.float32(float(x)) if abs(x) < 2**53 else np.float32(x)
    low = high = near
    if int(near) > x:
        low = np.nextafter(near, np.float32(-np.inf))
    elif int(near) < x:
        high = np.nextafter(near, np.float32(np.inf))
    down, up = x - int(low), int(high) - x
    tie = {"r": low if not low.view(np.uint32) & 1 else high, "a": low if x < 0 else high}
    nearest = low if down < up else high
    return {"f": low, "c": high, "z": high if x < 0 else low}.get(mode, tie.get(mode) if down == up else nearest)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["s32", "s64"])
def test_integers_to_floats(core: Core, kind: str, mode: str) -> None:
    info, random = np.iinfo(LIMITS[kind]), np.random.default_rng(1)
    some = [
        int(v) >> int(s)
        for v, s in zip(random.integers(info.min, info.max, 500), random.integers(0, 30, 500), strict=True)
    ]
    near = [
        s * (2**e + d)
        for s in (1, -1)
        for e in range(23, info.bits - 1)
        for d in (0, 1, 2, 3, 2 ** (e - 24) if e > 23 else 0, 3 * 2 ** (e - 24) if e > 24 else 0)
    ]
    x = [v for v in [0, info.min, info.max, *some, *near] if info.min <= v <= info.max]
    got = convert(
        core, f"s322f32{mode}" if kind == "s32" else f"s642f32{mode}.1", np.array(x, LIMITS[kind]), np.float32
    )
    assert np.array_equal(got, np.array([float_near(v, mode) for v in x], np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_shorts_to_halves(core: Core, mode: str) -> None:
    x = np.arange(-32768, 32768).astype(np.int16)
    table, patterns = numbers_of("f16")
    wanted = patterns[rounded(x.astype(np.float64), table, (patterns & 1).astype(bool), mode)]
    assert np.array_equal(convert(core, f"s162f16{mode}", x, np.uint16), wanted)


def test_integers_to_integers(core: Core) -> None:
    wide = np.array([0, 1, -1, 2**31, 2**31 - 1, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)], np.int64)
    assert np.array_equal(convert(core, "s642s32.1", wide, np.int32), wide.clip(-(2**31), 2**31 - 1))
    words = np.array([0, 5, -5, 32767, 32768, -32768, -32769, 2**31 - 1, -(2**31)], np.int32)
    assert np.array_equal(convert(core, "s322s16", words, np.int16), words.clip(-32768, 32767))
    assert np.array_equal(convert(core, "s322s64.1", words, np.int64), words)


def test_the_mask_counts_the_wider_lanes(core: Core) -> None:
    """64 lanes of float a repeat, and a source stride of its own."""
    x = np.arange(512, dtype=np.float32)
    core.put(FROM, x), core.put(TO, np.zeros(256, np.uint16))
    core.mask(0b101, 0)
    core.v("VCONV.f322bf16r.v220", TO, FROM, one(2, (1, 1), (4, 16)), at=2)
    got = (core.get(TO, 128, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(2, 64)
    wanted = np.zeros((2, 64))
    wanted[0, [0, 2]], wanted[1, [0, 2]] = x[[0, 2]], x[[128, 130]]
    assert np.array_equal(got, wanted)


def test_what_has_no_certain_result_is_refused(core: Core) -> None:
    with pytest.raises(Refused, match="NaN"):
        convert(core, "f322s32r", np.array([1, np.nan], np.float32), np.int32)
    with pytest.raises(Refused, match="negative"):
        convert(core, "f162u8r", np.array([-1], np.float16), np.uint8)
    core.put(0, np.ones(64, np.float32))
    with pytest.raises(Refused, match="in part"):  # wider, in place
        core.v("VCONV.f162f32.v220", 0, 0, one(1, (1, 1), (8, 4)), at=2)


def test_a_narrower_result_may_take_its_operands_place(core: Core) -> None:
    x = np.arange(640, dtype=np.float32)
    core.put(0, x)
    core.v("VCONV.f322f16r.v220", 0, 0, one(10, (1, 1), (4, 8)), at=2)
    assert np.array_equal(core.get(0, 640, np.float16), x)
