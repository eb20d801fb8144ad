"""Plans: every token is in one program, tiles fit their memory, and a shape needs few kernels. No device is asked."""

import dataclasses
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="a call's tensors are torch's")
pytest.importorskip("triton", reason="plans stand beside their kernels")

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rope_patch.kernels import ascend, blocks, planning
from rope_patch.kernels.by_heads import ByHeads
from rope_patch.kernels.padded_plan import Padded
from rope_patch.kernels.plan import MAX_TILE_OFFSET, SCRATCH_BYTES, Device, Plan
from rope_patch.kernels.shape import Rotation, Shape
from rope_patch.kernels.tiles import Tiles
from rope_patch.kernels.transposed import Transposed
from rope_patch.operators.rotation import KERNELS
from tests.shapes import SHAPES

KIB = 1024
ASCEND_910B3 = Device(max_programs=40, tile_bytes=192 * KIB, powers_of_two=False)
CUDA = Device(max_programs=MAX_TILE_OFFSET, tile_bytes=32 * KIB, powers_of_two=True, stride_unit=16, busy_programs=132)
INTERPRETER = Device(max_programs=MAX_TILE_OFFSET, tile_bytes=256 * KIB, powers_of_two=True, busy_programs=8)
DEVICES = st.sampled_from([ASCEND_910B3, CUDA, INTERPRETER])


def make_plan(shape: Shape, num_tokens: int, device: Device) -> Plan:
    return planning.make_plan(KERNELS, shape, num_tokens, device)


def plans_of(shape: Shape, device: Device) -> tuple[Plan, ...]:
    return planning.plans_of(KERNELS, shape, device)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    rotary_dim = 2 * draw(st.integers(1, 288))
    head_size = rotary_dim + draw(st.integers(0, 512))
    heads = draw(st.integers(1, 128))
    return Shape(
        Rotation(head_size, rotary_dim, is_neox_style=draw(st.booleans())),
        num_heads=heads,
        num_kv_heads=draw(st.integers(0, heads)),
        token_stride=draw(st.one_of(st.just(heads * head_size), st.integers(heads * head_size, MAX_TILE_OFFSET))),
        itemsize=draw(st.sampled_from((2, 4))),
        cache_itemsize=draw(st.sampled_from((2, 4))),
        fresh=draw(st.booleans()),
    )


# Rows so far apart that an eighth row would begin just within 32 bits and end beyond them.
SEVEN_ROWS = Shape(
    Rotation(128, 128, True),
    num_heads=8,
    num_kv_heads=0,
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
    if isinstance(plan, ByHeads | Padded):
        sizes = (shape.num_heads, plan.block_heads), (shape.num_kv_heads, plan.block_kv_heads)
        assert plan.units == sum(-(-heads // block) for heads, block in sizes)
        items = -(-num_tokens // plan.block_tokens) * plan.units
        assert (programs - 1) * each < items <= programs * each
        assert each == 1 or isinstance(plan, ByHeads), "a padded program has one"
    else:
        assert plan.least_tokens > 1 or each % plan.block_tokens == 0
        assert num_tokens >= plan.least_tokens
        assert (programs - 1) * each < num_tokens <= programs * each


# Few heads, of which an overlapping tile of 26 tokens once began at 25.
FEW_HEADS = Shape(
    Rotation(64, 64, False),
    num_heads=1,
    num_kv_heads=1,
    token_stride=192,
    itemsize=2,
    cache_itemsize=2,
    fresh=True,
    words="bf16 words",
)


@settings(max_examples=100, deadline=None)
@example(shape=FEW_HEADS, cores=40)
@example(shape=dataclasses.replace(FEW_HEADS, rotation=Rotation(80, 64, True), num_heads=2, words=""), cores=40)
@given(shape=shapes(), cores=st.sampled_from((40, 48, 50)))
def test_no_plan_is_for_fewer_tokens_than_it_can_serve(shape: Shape, cores: int) -> None:
    device = dataclasses.replace(ASCEND_910B3, max_programs=cores)
    plans = [(number, make_plan(shape, number, device)) for number in range(1, 2200)]
    firsts = {plan: number for number, plan in reversed(plans)}
    assert [(number, plan) for plan, number in firsts.items() if number < plan.least_tokens] == []


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_on_ascend_blocks_divide_the_heads_and_nothing_is_padded(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, ASCEND_910B3)
    assert isinstance(plan, ascend.AscendPlan)
    if not isinstance(plan, Transposed):  # which has no blocks of heads
        assert shape.num_heads % plan.block_heads == 0
        assert max(1, shape.num_kv_heads) % plan.block_kv_heads == 0
    assert not plan.splits_tokens or plan.block_tokens == 1, "a block of a tile has no tail there"


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_on_ascend_slices_begin_at_whole_blocks(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, ASCEND_910B3)
    half, lanes_become_rows = shape.half, isinstance(plan, Transposed)
    if lanes_become_rows or plan.whole:  # cut at the lanes that become rows, or at its halves
        cut = plan.lanes if lanes_become_rows else half
        assert cut * shape.itemsize % 32 == shape.rotation.head_size * shape.itemsize % 32 == 0
    if not lanes_become_rows and plan.wide_rows:
        assert 2 * half * shape.cache_itemsize % 32 == half * 4 % 32 == 0


@settings(max_examples=500, deadline=None)
@example(shape=SEVEN_ROWS, num_tokens=2**20, device=ASCEND_910B3)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20), device=DEVICES)
def test_offsets_inside_a_tile_are_32_bit(shape: Shape, num_tokens: int, device: Device) -> None:
    """This includes the last lane of the last token's row."""
    plan = make_plan(shape, num_tokens, device)
    row = (shape.num_heads + shape.num_kv_heads) * shape.rotation.head_size
    assert (plan.block_tokens - 1) * shape.token_stride + min(row, shape.token_stride) - 1 <= MAX_TILE_OFFSET


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_mainline_triton_gets_powers_of_two(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, CUDA)
    assert isinstance(plan, Padded)
    for size in (plan.block_tokens, plan.block_heads, plan.block_kv_heads, plan.half_lanes, plan.rest_lanes):
        assert size & (size - 1) == 0
    assert plan.half_lanes >= shape.half


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
    assert plan.block_tokens == 1 or shape.half * shape.cache_itemsize * (2 if plan.wide_rows else 1) % 32 == 0


def ascend_shape(model: str, fresh: bool) -> Shape:
    found = next(shape for shape in SHAPES if shape.model == model)
    row = (found.num_heads + 2 * found.num_kv_heads) * found.head_size
    asked = Rotation(found.head_size, found.rotary_dim, found.is_neox_style)
    words = "" if found.is_neox_style else "bf16 words"
    return Shape(
        asked,
        found.num_heads,
        found.num_kv_heads,
        token_stride=row,
        itemsize=2,
        cache_itemsize=2,
        fresh=fresh,
        words=words,
    )


# GPT-J tiles, tokens and heads, that bishengir-compile 1.0.0 refused of an earlier kernel, which took less.
OVERFLOWS = [
    ("ERNIE-4.5", {"words": ""}, 13, 4),
    ("DeepSeek MLA", {"words": ""}, 26, 4),
    ("GLM-4-9B", {"words": "", "itemsize": 4, "cache_itemsize": 4}, 32, 4),
]


@pytest.mark.parametrize(("model", "changes", "tokens", "heads"), OVERFLOWS)
def test_on_ascend_tiles_that_the_compiler_refused_count_as_too_large(
    model: str, changes: dict[str, int], tokens: int, heads: int
) -> None:
    shape = dataclasses.replace(ascend_shape(model, fresh=False), **changes)
    plan = dataclasses.replace(plans_of(shape, ASCEND_910B3)[-1], block_tokens=tokens, block_heads=heads)
    assert not plan.fits(shape, ASCEND_910B3)


@settings(max_examples=100, deadline=None)
@given(shape=shapes())
def test_on_ascend_every_plan_fits_or_is_of_a_single_head(shape: Shape) -> None:
    for plan in plans_of(shape, ASCEND_910B3):
        single = not isinstance(plan, Transposed) and plan.block_tokens * plan.block_heads * plan.block_kv_heads == 1
        assert single or plan.fits(shape, ASCEND_910B3), plan


@settings(max_examples=300, deadline=None)
@given(shape=shapes(), device=DEVICES)
def test_the_first_use_check_has_room_for_a_tile_of_every_plan(shape: Shape, device: Device) -> None:
    """Counted as ``trial.run`` does: fresh outputs too, and one row more for each tensor."""
    heads = [n for n in (shape.num_heads, shape.num_kv_heads) if n]
    copies = 2 if shape.fresh else 1
    rows = sum(copies * n + 1 for n in heads)
    head_stride = -(-shape.rotation.head_size // device.stride_unit) * device.stride_unit
    for plan in plans_of(shape, device):
        if plan.block_tokens > 1:
            assert plan.block_tokens * rows * head_stride * shape.itemsize <= SCRATCH_BYTES


def test_on_ascend_pairs_are_taken_as_words_where_they_are_words() -> None:
    shape = ascend_shape("GLM-4-9B", fresh=True)
    odd = dataclasses.replace(shape, words="")
    neox = ascend_shape("Llama-3.1-8B", fresh=True)
    found = [{plan.pairs for plan in plans_of(s, ASCEND_910B3)} for s in (shape, odd, neox)]
    assert found == [{"bf16 words"}, {"slices"}, {"halves"}]


@pytest.mark.parametrize("model", [shape.model for shape in SHAPES if shape.rotary_dim % 16 == 0])
def test_on_ascend_a_prefill_moves_whole_requests(model: str) -> None:
    """Memory requests have at most a tenth more bytes than the kernel moves, however heads are cut."""
    shape = ascend_shape(model, fresh=True)
    plan = make_plan(shape, 8192, ASCEND_910B3)
    bursts = [plan.block_heads * shape.rotation.head_size * 2] if plan.whole else blocks.parts(shape)
    size = shape.rotation.head_size * 2 * (plan.block_heads if plan.whole else 1)
    assert sum(ascend.memory_traffic(burst, size) for burst in bursts) <= 1.1 * sum(bursts), plan


def test_few_tokens_are_spread_over_cores_by_heads_and_more_are_balanced() -> None:
    shape = ascend_shape("Llama-3.1-8B", fresh=False)
    programs = {
        n: make_plan(shape, n, ASCEND_910B3).grid(n, ASCEND_910B3)[0] for n in (1, 4, 13, 39, 64, 80, 128, 8192)
    }
    assert programs == {1: 3, 4: 12, 13: 13, 39: 39, 64: 32, 80: 40, 128: 32, 8192: 40}


@pytest.fixture
def no_costs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As for a kernel whose costs nothing models."""
    planning._steps.cache_clear()
    monkeypatch.setattr(ascend.AscendPlan, "cycles", Plan.cycles)
    yield
    planning._steps.cache_clear()


@pytest.mark.parametrize("fresh", [False, True], ids=["in place", "fresh"])
@pytest.mark.parametrize("model", [shape.model for shape in SHAPES])
def test_without_costs_the_largest_tile_that_fits_serves_all_but_few_tokens(
    model: str, fresh: bool, no_costs: None
) -> None:
    shape = ascend_shape(model, fresh)
    plans = plans_of(shape, ASCEND_910B3)
    assert len(plans) <= 2
    assert all(plan.fits(shape, ASCEND_910B3) for plan in plans)
    fitting = [plan for kernel in (Transposed, Tiles) for plan in kernel.candidates(shape, ASCEND_910B3)]
    largest = make_plan(shape, 8192, ASCEND_910B3)
    assert largest.block_tokens == max(plan.block_tokens for plan in fitting)
    for num_tokens in range(1, 2 * largest.block_tokens + 2):
        plan = make_plan(shape, num_tokens, ASCEND_910B3)
        assert plan.least_tokens <= num_tokens
        assert plan == largest or num_tokens <= largest.block_tokens


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_costs_are_compared_only_if_all_kernels_of_a_device_have_them(
    kernel: type[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "cycles", Plan.cycles)
    monkeypatch.setattr(planning, "_plain", lambda *given: "plain")
    monkeypatch.setattr(planning, "_cheapest", lambda *given: "cheapest")
    shape = ascend_shape("StableLM-3B", fresh=True)  # of which all of Ascend's kernels have plans
    found = planning._steps.__wrapped__(KERNELS, shape, ASCEND_910B3)
    assert found == ("cheapest" if kernel is Padded else "plain")


def test_plans_are_worked_out_once_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Working them out may take milliseconds, and every new number of tokens needs them."""
    seen = []
    cheapest = planning._cheapest
    monkeypatch.setattr(planning, "_cheapest", lambda *given: (seen.append(given), cheapest(*given))[1])
    shape = dataclasses.replace(ascend_shape("Llama-3.1-8B", fresh=False), token_stride=12345)
    for num_tokens in range(1, 100):
        make_plan(shape, num_tokens, ASCEND_910B3)
    assert len(seen) == 1
