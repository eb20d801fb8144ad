"""The kernel compared with fp64: shapes, strides, dtypes, styles and positions; in place and into fresh outputs."""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the kernel's tests need torch")
pytest.importorskip("triton", reason="the kernel's tests need triton")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rope_patch.kernels import ascend, planning  # noqa: E402
from rope_patch.kernels.launch import INTERPRETED, device_facts  # noqa: E402
from rope_patch.kernels.planning import plans_of  # noqa: E402
from rope_patch.operators.rotation import KERNELS  # noqa: E402
from tests.rotations import DEVICE, Case, assert_rotated, launch, rotation  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
VARIANTS = tuple(zip(DTYPES, (True, False, True), strict=True))  # (dtype, whether in place)
ROTARY_DIMS = (2, 20, 24, 40, 64, 80, 96, 112, 128, 160, 192, 576)


def check(case: Case, *, in_place: bool, plan: object = None) -> None:
    """Rotate, and compare every lane of the outputs and of the memory around the inputs."""
    before = case.storage.clone(), case.query.clone(), case.key if case.key is None else case.key.clone()
    outputs = [
        None if in_place or tensor is None else torch.full(tensor.shape, float("nan"), dtype=tensor.dtype).to(DEVICE)
        for tensor in (case.query, case.key)
    ]
    launch(case.call(), *outputs, plan)
    query, key = (case.query, case.key) if in_place else outputs
    assert_rotated(case, before[1], query)
    if case.key is not None:
        assert_rotated(case, before[2], key)
    untouched = case.storage.clone()
    if in_place and case.query.data_ptr() == case.storage.data_ptr():  # views: all but q and k must be as before
        q_width = case.query.shape[1]
        untouched[:, :q_width] = before[0][:, :q_width]
        if case.key is not None:
            untouched[:, q_width : q_width + case.key.shape[1]] = before[0][:, q_width : q_width + case.key.shape[1]]
    assert torch.equal(untouched, before[0]), "memory around q and k changed"


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """What ``rotation`` takes beside the numbers."""
    dtype = draw(st.sampled_from(DTYPES))
    return {
        "is_neox_style": draw(st.booleans()),
        "dtype": dtype,
        "cache_dtype": draw(st.sampled_from((dtype, torch.float32))),
        "positions_dtype": draw(st.sampled_from((torch.int32, torch.int64))),
        "strided": draw(st.booleans()),
        "max_position": draw(st.integers(1, 200)),
        "seed": draw(st.integers(0, 2**16)),
    }


PASSING_LANES = st.one_of(st.just(0), st.integers(1, 33))  # of a head: full rotary, or partial


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rotary_dim = 2 * draw(st.integers(1, 40))
    numbers = draw(st.integers(1, 70)), draw(st.integers(1, 9)), draw(st.integers(0, 4))
    return rotation(*numbers, rotary_dim + draw(PASSING_LANES), rotary_dim, **draw(options()))


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "fresh"])
@settings(max_examples=20 if INTERPRETED else 25, deadline=None, derandomize=True)  # seconds each
@given(case=cases())
def test_any_shape_dtype_stride_and_style_is_rotated_within_rounding(case: Case, in_place: bool) -> None:
    check(case, in_place=in_place)


@pytest.mark.parametrize("rotary_dim", ROTARY_DIMS)
@pytest.mark.parametrize("is_neox_style", [True, False], ids=["neox", "gpt-j"])
@pytest.mark.parametrize("rest", [0, 64], ids=["full", "partial"])
def test_every_rotary_dim_power_of_two_or_not(rotary_dim: int, is_neox_style: bool, rest: int) -> None:
    # Where each variant costs a compile, run one of the three: over its four cases each rotary dim meets all of them.
    turn = ROTARY_DIMS.index(rotary_dim) + 2 * is_neox_style + bool(rest)
    for dtype, in_place in VARIANTS if INTERPRETED else VARIANTS[turn % 3 :][:1]:
        case = rotation(5, 4, 2, rotary_dim + rest, rotary_dim, is_neox_style=is_neox_style, dtype=dtype)
        check(case, in_place=in_place)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 2, 3])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "fresh"])
def test_few_tokens(num_tokens: int, dtype: torch.dtype, in_place: bool) -> None:
    check(rotation(num_tokens, 32, 8, 128, 128, dtype=dtype), in_place=in_place)


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "fresh"])
def test_one_head_and_65537_tokens(in_place: bool) -> None:
    """With a rotary dim that allows tiles of several tokens, since tiles of one take an interpreter ten minutes."""
    if INTERPRETED and in_place:
        pytest.skip("one of the two is enough for mainline's kernel")
    check(rotation(65537, 1, 1, 48, 32, strided=not in_place), in_place=in_place)


def test_no_key() -> None:
    check(rotation(7, 4, 0, 64, 40), in_place=False)


def test_zero_tokens_start_nothing() -> None:
    case = rotation(0, 4, 2, 64, 64)
    launch(case.call(), torch.empty_like(case.query), torch.empty_like(case.key))


@pytest.mark.parametrize("is_neox_style", [True, False], ids=["neox", "gpt-j"])
def test_every_tile_height_of_a_plan_is_right_with_and_without_a_tail(is_neox_style: bool) -> None:
    device = device_facts(torch.device(DEVICE))
    for fresh in (False, True):
        shape = replace(rotation(1, 3, 1, 128, 96, is_neox_style=is_neox_style).call().shape, fresh=fresh)
        plans = plans_of(KERNELS, shape, device)
        assert len(plans) >= 2
        for plan in plans:
            block = plan.block_tokens
            for num_tokens in {plan.least_tokens, block, block + 1, 2 * block + 1}:
                case = rotation(num_tokens, 3, 1, 128, 96, is_neox_style=is_neox_style)
                check(case, in_place=not fresh, plan=plan)


@pytest.mark.parametrize("fresh", [False, True], ids=["in place", "fresh"])
def test_plans_that_are_chosen_without_costs_are_right_too(fresh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_facts(torch.device(DEVICE))
    if device.powers_of_two:
        pytest.skip("mainline's plans are chosen without costs in all tests")
    monkeypatch.setattr(ascend.AscendPlan, "cycles", lambda *given: None)
    shape = replace(rotation(1, 3, 1, 128, 96).call().shape, fresh=fresh)
    plans = planning._steps.__wrapped__(KERNELS, shape, device)
    assert plans[-1][0].block_tokens > 1
    for plan, _ in plans:
        check(rotation(2 * plan.block_tokens + 1, 3, 1, 128, 96), in_place=not fresh, plan=plan)


@pytest.mark.parametrize("offset", [0, 1], ids=["words", "odd"])
def test_gptj_pairs_of_fp16_keep_zeros_and_subnormals(offset: int) -> None:
    """A rotation by zero keeps every value, whether its pair is an aligned word or not.

    bf16 is left out, since the interpreters' own cast to bf16 does not keep zeros.
    """
    dtype = torch.float16
    patterns = torch.tensor([0, 0x8000, 1, 0x8001, 0x0400, 0x3C00, 0xBC01, 0x7B00], dtype=torch.int32)
    case = rotation(3, 2, 0, 16, 16, is_neox_style=False, dtype=dtype, strided=False)
    case.cache[:] = torch.tensor([1.0] * 8 + [0.0] * 8, dtype=dtype)
    memory = torch.zeros(offset + 3 * 32, dtype=dtype, device=DEVICE)
    case.query = memory[offset:].view(3, 32)
    case.query.view(torch.int16)[:] = patterns.to(torch.int16).repeat(4).to(DEVICE)
    before = case.query.clone()
    assert case.call().whole_words == (offset == 0)
    launch(case.call(), None, None)
    # -0 * 1 - x * 0 is -0 or 0, as IEEE has it; the values are the same.
    assert torch.equal(case.query, before)


def test_heads_that_lie_apart() -> None:
    """``[T, H, D]`` whose head stride is not head_size, as a slice of a wider head."""
    case = rotation(6, 4, 1, 32, 32)
    wide = torch.randn(6, 4, 80).to(DEVICE, torch.bfloat16)
    case.query = wide[:, :, 16:48]
    before, query = wide.clone(), case.query.clone()
    out, key_out = torch.empty(6, 4, 32, dtype=torch.bfloat16, device=DEVICE), torch.empty_like(case.key)
    launch(case.call(), out, key_out)
    assert_rotated(case, query, out)
    assert torch.equal(wide, before)


def test_rows_at_a_tie_round_to_even() -> None:
    """The kernel rounds to bf16 to nearest even, although the interpreter's own cast truncates."""
    case = rotation(1, 1, 0, 2, 2, dtype=torch.bfloat16, cache_dtype=torch.float32)
    case.cache[:] = torch.tensor([1 + 2.0**-8, 0.0])  # cos: halfway between 1 and the next bf16
    case.query[:] = torch.tensor([1.0, 1 + 2.0**-7])
    out = torch.empty_like(case.query, memory_format=torch.contiguous_format)
    launch(case.call(), out, None)
    assert out.tolist() == [[1.0, 1 + 2.0**-6]]
