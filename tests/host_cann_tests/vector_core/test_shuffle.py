"""Instructions that move or reduce lanes, compared with numpy."""

# ruff: noqa: F401, F811  (fixtures)
from typing import Any

import pytest

from tests.host_cann_tests.vector_core.core import ALL, BLOCK, UB, Core, Refused, built_core, core, np, one

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

FAST = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TO, A, B = 0, 64 << 10, 128 << 10
UINT = {2: np.uint16, 4: np.uint32}
TYPES = {"f32": np.float32, "f16": np.float16}


def pattern(repeats: int, mode: int, stride: int, block: int = 1, pattern_stride: int = 0) -> int:
    return repeats & 255 | block << 8 | mode << 16 | stride << 24 | pattern_stride << 40 | repeats >> 8 << 56


PICKS = {1: (0, 2), 2: (1, 2), 3: (0, 4), 4: (1, 4), 5: (2, 4), 6: (3, 4), 7: (0, 1)}


@pytest.mark.parametrize("size", [2, 4])
@FAST
@given(
    mode=st.sampled_from(sorted(PICKS)),
    repeats=st.integers(0, 300),
    stride=st.integers(0, 6),
    counted=st.none() | st.integers(1, 50),
)
def test_gathering_by_a_built_in_pattern(
    core: Core, size: int, mode: int, repeats: int, stride: int, counted: int | None
) -> None:
    """Counter mode: so many elements of each repeat; normal mode: 256 bytes of it, whatever the mask says."""
    core.start()
    repeats = min(repeats, 20) if counted is None else repeats
    x = np.arange((64 << 10) // size).astype(UINT[size])
    core.put(A, x[: (repeats * 6 * BLOCK + 512) // size])
    core.ub[: 64 << 10] = 0
    if counted is None:
        core.mask(1, 0)
    else:
        core.count(counted)
    elements = counted or 256 // size
    first, step = PICKS[mode]
    rows = [x[r * stride * BLOCK // size :][:elements][first::step] for r in range(repeats)]
    wanted = np.concatenate([*rows, x[:0]])
    core.v(f"VREDUCEv2.b{8 * size}", TO, A, A, pattern(repeats, mode, stride), at=3)
    assert np.array_equal(core.get(TO, len(wanted), x.dtype), wanted)
    assert not core.ub[len(wanted) * size : 64 << 10].any()


@pytest.mark.parametrize("size", [2, 4])
def test_gathering_by_a_pattern_of_ones_own(core: Core, size: int) -> None:
    lanes = 256 // size
    x = np.arange(3 * lanes).astype(UINT[size])
    chosen = np.random.default_rng(0).integers(0, 256, (3, 32), np.uint8)
    core.put(A, x), core.put(B, chosen)
    core.v(f"VREDUCEv2.b{8 * size}", TO, A, B, pattern(3, 0, 8, pattern_stride=1), at=3)
    picked = np.unpackbits(chosen[:, : lanes // 8], axis=1, bitorder="little").astype(bool).reshape(-1)
    assert np.array_equal(core.get(TO, picked.sum(), x.dtype), x[picked])


def test_gathering_takes_block_strides(core: Core) -> None:
    x = np.arange(256, dtype=np.float32)
    core.put(A, x)
    core.v("VREDUCEv2.b32", TO, A, A, pattern(2, 1, 16, block=2), at=3)
    assert np.array_equal(core.get(TO, 64, np.float32), x.reshape(32, 8)[::2].reshape(-1)[::2])
    core.count(70)
    with pytest.raises(Refused, match="block stride"):
        core.v("VREDUCEv2.b32", TO, A, A, pattern(2, 1, 16, block=2), at=3)
    with pytest.raises(Refused, match="overlap"):
        core.v("VREDUCEv2.b32", A, A, A, pattern(2, 1, 16), at=3)
    with pytest.raises(Refused, match="pattern 8"):
        core.v("VREDUCEv2.b32", TO, A, A, pattern(2, 8, 16), at=3)


@pytest.mark.parametrize("size", [2, 4])
@FAST
@given(repeats=st.integers(0, 20), elements=st.integers(1, 300), block=st.integers(0, 2), stride=st.integers(0, 40))
def test_copying_rows(core: Core, size: int, repeats: int, elements: int, block: int, stride: int) -> None:
    """Counter mode: so many elements in each repeat."""
    core.start()
    core.put(A, np.arange((96 << 10) // size).astype(UINT[size]))
    core.ub[: 64 << 10] = 0
    core.count(elements)
    wanted = core.ub.copy()
    to_stride, per_block = 60, BLOCK // size
    for r in range(repeats):
        i = np.arange(elements)
        where = A + r * stride * BLOCK + i // per_block * block * BLOCK + i % per_block * size
        wanted[TO + r * to_stride * BLOCK :][: elements * size] = wanted[where[:, None] + np.arange(size)].reshape(-1)
    core.v(f"VCOPY.u{8 * size}", TO, A, one(repeats, (1, block), (to_stride, stride)), at=2)
    assert np.array_equal(core.ub, wanted)


def test_copying_with_a_mask(core: Core) -> None:
    core.put(A, np.arange(128, dtype=np.uint32)), core.put(TO, np.zeros(128, np.uint32))
    core.mask(0b110, 0)
    core.v("VCOPY.u32", TO, A, one(2), at=2)
    assert list(core.get(TO, 128, np.uint32).nonzero()[0]) == [1, 2, 65, 66]


def lists(core: Core, rows: dict[int, list[int]]) -> None:
    for first, places in rows.items():
        for i in range(0, 16, 2):
            core("MOVEVA", first + i // 8, i % 8, core.base + places[i], core.base + places[i + 1])


@pytest.mark.parametrize("repeats", [1, 3])
def test_transposing(core: Core, repeats: int) -> None:
    """16 rows of a block. What is left where a single repeat has strides: it begins one stride on."""
    x = np.random.default_rng(1).integers(0, 2**16, (16, 3 * 16), np.uint16)
    core.put(A, x)
    strides = 0 if repeats == 1 else 1 << 16 | 16
    lists(core, {0: [TO + i * BLOCK for i in range(16)], 2: [A + i * 96 for i in range(16)]})
    core.wait()
    core("S.VNCHWCONV.b16", 0, 2, strides | repeats << 56)
    assert np.array_equal(core.get(TO, repeats * 256, np.uint16).reshape(-1, 16), x.T[: 16 * repeats])
    core.wait()
    core("S.VNCHWCONV.b16", 0, 2, 1 << 16 | 1 << 56)
    assert np.array_equal(core.get(TO, 256, np.uint16).reshape(16, 16), x.T[16:32])


def test_transposing_words(core: Core) -> None:
    x = np.random.default_rng(1).integers(0, 2**32, (16, 8), np.uint32)
    core.put(A, x)
    lists(core, {0: [TO + i * BLOCK for i in range(16)], 2: [A + i * BLOCK for i in range(16)]})
    core.wait()
    core("S.VNCHWCONV.b32", 0, 2, 1 << 56)
    assert np.array_equal(core.get(TO, 128, np.uint32).reshape(8, 16), x.T)


@pytest.mark.parametrize("to_high", [0, 1])
@pytest.mark.parametrize("from_high", [0, 1])
def test_transposing_bytes(core: Core, to_high: int, from_high: int) -> None:
    x = np.random.default_rng(1).integers(0, 256, (16, 32), np.uint8)
    core.put(A, x), core.put(TO, np.zeros(512, np.uint8))
    lists(core, {0: [TO + i * BLOCK for i in range(16)], 2: [A + i * BLOCK for i in range(16)]})
    core.wait()
    core("S.VNCHWCONV.b8", 0, 2, 1 << 56, to_high, from_high)
    wanted = np.zeros((16, 32), np.uint8)
    wanted[:, 16 * to_high :][:, :16] = x[:, 16 * from_high :][:, :16].T
    assert np.array_equal(core.get(TO, 512, np.uint8).reshape(16, 32), wanted)


@pytest.mark.parametrize("size", [2, 4])
def test_gathering_by_offset(core: Core, size: int) -> None:
    """Offsets hold the source's address, as the library makes them: 32 bits of it."""
    x = np.random.default_rng(0).integers(0, 2**15, 500).astype(UINT[size])
    order = np.random.default_rng(1).integers(0, 500, 300)
    core.put(A, x), core.put(B, (order * size + core.base + A).astype(np.uint64).astype(np.uint32))
    core.count(300)
    core.v(f"VGATHER.b{8 * size}", TO, B, 8 << 32 | 1 << 56, at=2)
    assert np.array_equal(core.get(TO, 300, x.dtype), x[order])
    core.put(B, np.full(300, core.base + UB, np.uint64).astype(np.uint32))
    with pytest.raises(Refused, match="offset"):
        core.v(f"VGATHER.b{8 * size}", TO, B, 8 << 32 | 1 << 56, at=2)


def reduction(repeats: int, to: int, block: int = 1, stride: int = 8) -> int:
    return to | block << 16 | stride << 32 | repeats << 56


def added(values: list[Any]) -> Any:
    """Neighbours, then the sums of neighbours; None takes no part."""
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [b if a is None else a if b is None else a + b for a, b in pairs]
    return values[0]


@pytest.mark.parametrize("kind", TYPES)
@FAST
@given(
    low=st.integers(0, ALL) | st.just(ALL),
    high=st.integers(0, ALL) | st.just(ALL),
    stride=st.integers(0, 10),
    to=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_sums_of_repeats_and_blocks(
    core: Core, kind: str, low: int, high: int, stride: int, to: int, seed: int
) -> None:
    dtype, repeats = TYPES[kind], 3
    size = np.dtype(dtype).itemsize
    lanes = 256 // size
    core.start()
    x = (np.random.default_rng(seed).standard_normal(4096 // size) * 30).astype(dtype)
    core.put(A, x)
    core.mask(low, high)
    there = [bool((low | high << 64) >> i & 1) for i in range(lanes)]
    for name, group, per_repeat in ((f"VCADD.{kind}.order", lanes, 1), (f"VCGADD.{kind}", 32 // size, 8)):
        core.put(TO, np.full(4096 // size, -1, dtype))
        wanted = core.get(TO, 4096 // size, dtype)
        for r in range(repeats):
            row = [v if t else None for v, t in zip(x[r * stride * BLOCK // size :][:lanes], there, strict=True)]
            for i in range(per_repeat):
                total = added(row[i * group : (i + 1) * group])
                if total is not None:
                    wanted[r * to * per_repeat + i] = total
        core.v(name, TO, A, reduction(repeats, to, 1, stride), *([0] if "order" in name else []), at=2)
        assert np.array_equal(core.get(TO, 4096 // size, dtype), wanted)


@pytest.mark.parametrize("kind", TYPES)
def test_sums_of_pairs(core: Core, kind: str) -> None:
    dtype = TYPES[kind]
    x = (np.random.default_rng(0).standard_normal(1000) * 9).astype(dtype)
    core.put(A, x)
    core.count(1000)
    core.v(f"VCPADD.{kind}", TO, A, reduction(1, 1), at=2)
    assert np.array_equal(core.get(TO, 500, dtype), x[::2] + x[1::2])
    core.v(f"VCPADD.{kind}", A, A, reduction(1, 1), at=2)  # as the library does
    assert np.array_equal(core.get(A, 500, dtype), x[::2] + x[1::2])
    core.put(A, x)
    core.count(999)
    with pytest.raises(Refused, match="half a pair"):
        core.v(f"VCPADD.{kind}", TO, A, reduction(1, 1), at=2)
    with pytest.raises(Refused, match="overlap"):
        core.v(f"VCPADD.{kind}", A + 256, A, reduction(1, 1), at=2)


@pytest.mark.parametrize("counts", [True, False], ids=["counted", "masked"])
def test_sums_may_be_put_behind_the_last_lane_that_is_read(core: Core, counts: bool) -> None:
    """The compiler puts buffers side by side."""
    x = np.arange(32, dtype=np.float32)
    core.put(A, x)
    core.count(32) if counts else core.mask(2**32 - 1, 0)
    core.v("VCGADD.f32", A + 128, A, reduction(1, 1), at=2)
    assert np.array_equal(core.get(A + 128, 4, np.float32), x.reshape(-1, 8).sum(1))
    with pytest.raises(Refused, match="overlap"):
        core.v("VCGADD.f32", A + 96, A, reduction(1, 1), at=2)


def test_a_sum_of_halves_saturates_on_the_way(core: Core) -> None:
    """The example in the vendor's documentation: 60000 + 60000 is 65504, and 65504 - 29900 what halves make of it."""
    core.put(A, np.array([60000, 60000, -30000, 100], np.float16))
    core.mask(0b1111, 0)
    core.saturate()
    core.v("VCADD.f16.order", TO, A, reduction(1, 1), 0, at=2)
    assert core.get(TO, 1, np.float16)[0] == np.float16(65504) + np.float16(-29900)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("op", ["VCMAX", "VCMIN"])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_largest_and_smallest(core: Core, op: str, kind: str, order: int) -> None:
    dtype = TYPES[kind]
    size = np.dtype(dtype).itemsize
    lanes, index = 256 // size, UINT[size]
    x = np.random.default_rng(order).integers(-9, 9, 3 * lanes).astype(dtype)
    core.put(A, x)
    core.count(2 * lanes + 5)
    core.v(f"{op}.{kind}.order.v220", TO, A, reduction(1, 1), order, at=2)
    rows = [x[:lanes], x[lanes : 2 * lanes], x[2 * lanes :][:5]]
    at = [int(np.argmax(r) if op == "VCMAX" else np.argmin(r)) for r in rows]
    best = np.array([r[i] for r, i in zip(rows, at, strict=True)])
    pairs = [best.view(index), np.array(at, index)]
    if order == 3:
        assert list(core.get(TO, 3, np.uint32)) == at
    elif order == 2:
        assert np.array_equal(core.get(TO, 3, dtype), best)
    else:
        assert np.array_equal(core.get(TO, 6, index), np.stack(pairs if order == 0 else pairs[::-1], 1).reshape(-1))
    core.put(A, np.full(lanes, np.nan, dtype))
    with pytest.raises(Refused, match="NaN"):
        core.v(f"{op}.{kind}.order.v220", TO, A, reduction(1, 1), order, at=2)
    with pytest.raises(Refused, match="there is none"):
        core.v(f"{op}.{kind}.order.v220", TO, A, reduction(1, 1), 4, at=2)
