"""The plan: every token once, nothing over budget, few compiles. Pure Python."""

import dataclasses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rope_patch.kernels import plan_ascend
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Shape
from rope_patch.kernels.planning import make_plan, plans_of
from tests.shapes import SHAPES

KIB = 1024
ASCEND_910B3 = Device(max_programs=40, tile_bytes=192 * KIB, powers_of_two=False, slices=True)
CUDA = Device(max_programs=MAX_TILE_OFFSET, tile_bytes=32 * KIB, powers_of_two=True, stride_unit=16, busy_programs=132)
INTERPRETER = Device(max_programs=8, tile_bytes=256 * KIB, powers_of_two=False)
DEVICES = st.sampled_from([ASCEND_910B3, CUDA, INTERPRETER])


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    rotary_dim = 2 * draw(st.integers(1, 288))
    head_size = rotary_dim + draw(st.integers(0, 512))
    heads = draw(st.integers(1, 128))
    return Shape(
        num_heads=heads,
        num_kv_heads=draw(st.integers(0, heads)),
        head_size=head_size,
        rotary_dim=rotary_dim,
        token_stride=draw(st.one_of(st.just(heads * head_size), st.integers(heads * head_size, MAX_TILE_OFFSET))),
        is_neox_style=draw(st.booleans()),
        itemsize=draw(st.sampled_from((2, 4))),
        cache_itemsize=draw(st.sampled_from((2, 4))),
        fresh=draw(st.booleans()),
    )


# Rows so far apart that an eighth would begin just within 32 bits, and end beyond.
SEVEN_ROWS = Shape(
    num_heads=8,
    num_kv_heads=0,
    head_size=128,
    rotary_dim=128,
    is_neox_style=True,
    token_stride=306_783_373,
    itemsize=2,
    cache_itemsize=2,
    fresh=False,
)


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20), device=DEVICES)
def test_programs_cover_every_token_once_and_none_is_idle(shape: Shape, num_tokens: int, device: Device) -> None:
    plan = make_plan(shape, num_tokens, device)
    programs, each = plan.grid(num_tokens, device)
    assert 1 <= programs <= device.max_programs
    if plan.units:
        blocks = (shape.num_heads, plan.block_heads), (shape.num_kv_heads, plan.block_kv_heads)
        assert plan.units == sum(-(-heads // block) for heads, block in blocks)
        items = -(-num_tokens // plan.block_tokens) * plan.units
        assert (programs - 1) * each < items <= programs * each
        assert each == 1 or not plan.padded, "a padded program has one"
    else:
        assert each % plan.block_tokens == 0
        assert (programs - 1) * each < num_tokens <= programs * each


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_on_ascend_blocks_divide_the_heads_and_nothing_is_padded(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, ASCEND_910B3)
    assert not plan.padded
    assert plan.half_lanes == shape.rotary_dim // 2
    assert shape.num_heads % plan.block_heads == 0
    assert max(1, shape.num_kv_heads) % plan.block_kv_heads == 0
    assert plan.units == 0 or plan.block_tokens == 1, "a block of a tile has no tail there"


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_on_ascend_slices_begin_at_whole_blocks(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, ASCEND_910B3)
    half = shape.rotary_dim // 2
    if plan.wide_heads:
        assert half * shape.itemsize % 32 == shape.head_size * shape.itemsize % 32 == 0
    if plan.wide_rows:
        assert 2 * half * shape.cache_itemsize % 32 == half * 4 % 32 == 0
    assert not make_plan(shape, num_tokens, INTERPRETER).wide_heads, "the interpreter has no slices"


@settings(max_examples=500, deadline=None)
@example(shape=SEVEN_ROWS, num_tokens=2**20, device=ASCEND_910B3)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20), device=DEVICES)
def test_offsets_inside_a_tile_are_32_bit(shape: Shape, num_tokens: int, device: Device) -> None:
    """Up to the last lane of the last token's row."""
    plan = make_plan(shape, num_tokens, device)
    row = (shape.num_heads + shape.num_kv_heads) * shape.head_size
    assert (plan.block_tokens - 1) * shape.token_stride + min(row, shape.token_stride) - 1 <= MAX_TILE_OFFSET


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_mainline_triton_gets_powers_of_two(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, CUDA)
    for size in (plan.block_tokens, plan.block_heads, plan.block_kv_heads, plan.half_lanes, plan.rest_lanes):
        assert size & (size - 1) == 0
    assert plan.half_lanes >= shape.rotary_dim // 2
    assert plan.padded


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), device=DEVICES)
def test_a_shape_has_at_most_three_plans_however_many_tokens(shape: Shape, device: Device) -> None:
    plans = {make_plan(shape, num_tokens, device) for num_tokens in (*range(1, 4097, 5), 2**17, 2**20)}
    assert plans <= set(plans_of(shape, device))
    assert len(plans_of(shape, device)) <= 3


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_on_ascend_rows_that_are_not_whole_blocks_are_not_gathered(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, ASCEND_910B3)
    row = shape.rotary_dim // 2 * shape.cache_itemsize * (2 if plan.wide_rows else 1)
    assert plan.block_tokens == 1 or row % 32 == 0


def ascend_shape(model: str, fresh: bool) -> Shape:
    found = next(shape for shape in SHAPES if shape.model == model)
    row = (found.num_heads + 2 * found.num_kv_heads) * found.head_size
    heads = found.num_heads, found.num_kv_heads, found.head_size, found.rotary_dim, found.is_neox_style
    words = not found.is_neox_style
    return Shape(*heads, token_stride=row, itemsize=2, cache_itemsize=2, fresh=fresh, whole_words=words)


# GPT-J tiles that bishengir-compile 1.0.0 refused: tokens, and rows of q.
OVERFLOWS = [
    ("ERNIE-4.5", {}, 16, 80),  # 204,800 bytes of 196,608
    ("ERNIE-4.5", {"whole_words": False}, 13, 52),  # 199,680
    ("DeepSeek MLA", {"whole_words": False}, 26, 104),  # 199,680
    ("GLM-4-9B", {"whole_words": False, "itemsize": 4, "cache_itemsize": 4}, 32, 128),  # 294,912
]


@pytest.mark.parametrize(("model", "changes", "tokens", "rows"), OVERFLOWS)
def test_on_ascend_no_tile_is_planned_that_the_compiler_refused(
    model: str, changes: dict[str, int], tokens: int, rows: int
) -> None:
    shape = dataclasses.replace(ascend_shape(model, fresh=False), **changes)
    assert plan_ascend._rows(shape, tokens, ASCEND_910B3) < rows


def test_on_ascend_pairs_are_taken_as_words_where_they_are_words() -> None:
    shape = ascend_shape("GLM-4-9B", fresh=True)
    odd = dataclasses.replace(shape, whole_words=False)
    neox = ascend_shape("Llama-3.1-8B", fresh=True)
    found = [{plan.pairs for plan in plans_of(s, ASCEND_910B3)} for s in (shape, odd, neox)]
    assert found == [{"words"}, {"slices"}, {"halves"}]
    assert all(plan.pairs == "split" for plan in plans_of(shape, CUDA))
    assert all(plan.rest_lanes == 32 for plan in plans_of(shape, ASCEND_910B3)), "64 lanes that pass through"


# KiB of the smaller transfers of q and of k, where they are below 16: too few heads, with tokens bounded by the unified
# buffer or by the first-use check's scratch. Rotary dims whose rows are not gathered (20, 24, 40) are not listed.
SHORT = {
    ("GLM-4.5 tp8", False): (15, 15),
    ("DeepSeek MLA", False): (16, 4),
    ("DeepSeek MLA", True): (16, 2),
    ("MiMo-V2", False): (16, 10),
}


@pytest.mark.parametrize("fresh", [False, True], ids=["in place", "fresh"])
@pytest.mark.parametrize("model", [shape.model for shape in SHAPES if shape.rotary_dim % 16 == 0])
def test_on_ascend_a_prefill_moves_at_least_16_kib_at_a_time(model: str, fresh: bool) -> None:
    shape = ascend_shape(model, fresh)
    plan = make_plan(shape, 8192, ASCEND_910B3)
    row = plan.block_tokens * (shape.head_size if fresh else shape.rotary_dim) * 2
    parts = 1 if plan.wide_heads or not shape.is_neox_style else 2
    least = [block * row // parts // KIB for block in (plan.block_heads, plan.block_kv_heads)]
    assert tuple(min(16, kib) for kib in least) == SHORT.get((model, fresh), (16, 16))


def test_few_tokens_are_spread_over_cores_by_heads_and_more_are_balanced() -> None:
    shape = ascend_shape("Llama-3.1-8B", fresh=False)
    programs = {
        n: make_plan(shape, n, ASCEND_910B3).grid(n, ASCEND_910B3)[0] for n in (1, 4, 13, 39, 64, 80, 128, 8192)
    }
    assert programs == {1: 3, 4: 12, 13: 39, 39: 39, 64: 32, 80: 40, 128: 32, 8192: 40}


def test_plans_are_worked_out_once_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes up to milliseconds, and every new number of tokens asks."""
    seen = []
    steps = plan_ascend.steps
    monkeypatch.setattr(plan_ascend, "steps", lambda *shape: (seen.append(shape), steps(*shape))[1])
    shape = dataclasses.replace(ascend_shape("Llama-3.1-8B", fresh=False), token_stride=12345)
    for num_tokens in range(1, 100):
        make_plan(shape, num_tokens, ASCEND_910B3)
    assert len(seen) == 1
