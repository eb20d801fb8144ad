"""Three positions a token: every pair of lanes turns by its axis' position, whatever the kernel and the order.

The reference here is written from vLLM's sections by itself: it knows nothing of the strings that the package uses.
"""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the kernel's tests need torch")
pytest.importorskip("triton", reason="the kernel's tests need triton")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rope_patch.kernels.launch import INTERPRETED, device_facts  # noqa: E402
from rope_patch.kernels.orders import ORDERS, order_of  # noqa: E402
from rope_patch.kernels.planning import plans_of  # noqa: E402
from rope_patch.operators.arguments import axes_of  # noqa: E402
from rope_patch.operators.rotation import KERNELS  # noqa: E402
from tests.kernels.test_kernel import PASSING_LANES, check, options  # noqa: E402
from tests.rotations import DEVICE, Case, rotation  # noqa: E402

# heads, key heads, head size, rotary dim, NeoX, order, sections of t, h and w
MODELS = {
    "GLM-4.1V": (8, 2, 128, 64, False, "chunked", (8, 12, 12)),
    "GLM-4.5V": (6, 1, 128, 64, True, "chunked", (8, 12, 12)),
    "Qwen2.5-VL": (7, 1, 128, 128, True, "chunked", (16, 24, 24)),
    "Qwen3-VL": (8, 2, 128, 128, True, "interleaved", (24, 20, 20)),
    "Qwen3.5": (4, 1, 256, 64, True, "interleaved", (11, 11, 10)),
    "ERNIE-4.5-VL": (5, 1, 128, 128, False, "alternating", (20, 22, 22)),
}


def axis_of(lane: int, half: int, order: str, t: int, h: int, w: int) -> int:
    """The axis of a pair of lanes, as vLLM's classes select it: chunks one after the other, slices by steps of 3 up to
    three times the section, or h and w in turns before t."""
    if order == "chunked":
        return 0 if lane < t else 1 if lane < t + h else 2
    if order == "interleaved":
        return next((axis for axis, end in ((1, 3 * h), (2, 3 * w)) if lane in range(axis, min(end, half), 3)), 0)
    return lane % 2 + 1 if lane < h + w else 0


@st.composite
def sections(draw: st.DrawFn) -> tuple[str, int, int, int]:
    order = draw(st.sampled_from(ORDERS))
    h = draw(st.integers(0, 14))
    w = h if order == "alternating" else draw(st.integers(0, 14))
    return order, draw(st.integers(0 if h + w else 1, 14)), h, w


def rotated_by(section: tuple[str, int, int, int], **chosen: Any) -> Case:
    order, t, h, w = section
    rotary_dim = 2 * (t + h + w)
    axes = axes_of((t, h, w), order, rotary_dim)
    assert axes == "".join("thw"[axis_of(lane, t + h + w, order, t, h, w)] for lane in range(t + h + w))
    rest, tokens, heads, kv_heads = (chosen.pop(name) for name in ("rest", "tokens", "heads", "kv_heads"))
    return rotation(tokens, heads, kv_heads, rotary_dim + rest, rotary_dim, axes=axes, **chosen)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return rotated_by(
        draw(sections()),
        rest=draw(PASSING_LANES),
        tokens=draw(st.integers(1, 40)),
        heads=draw(st.integers(1, 6)),
        kv_heads=draw(st.integers(0, 3)),
        **draw(options()),
    )


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "fresh"])
@settings(max_examples=8 if INTERPRETED else 3, deadline=None, derandomize=True)  # seconds each
@given(case=cases())
def test_any_sections_shape_dtype_stride_and_style(case: Case, in_place: bool) -> None:
    check(case, in_place=in_place)


@pytest.mark.parametrize("model", MODELS)
def test_every_plan_of_a_model(model: str) -> None:
    heads, kv_heads, head_size, rotary_dim, is_neox_style, order, section = MODELS[model]
    shape = head_size, rotary_dim
    options = {"is_neox_style": is_neox_style, "axes": axes_of(section, order, rotary_dim)}
    assert order_of(options["axes"]) == (order, *section[1:])
    device = device_facts(torch.device(DEVICE))
    one = rotation(1, heads, kv_heads, *shape, **options).call()
    for plan in plans_of(KERNELS, replace(one.shape, fresh=True), device):
        case = rotation(2 * plan.block_tokens + 1, heads, kv_heads, *shape, **options)
        check(case, in_place=False, plan=plan)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_is_clamped_by_itself(axis: int) -> None:
    """A position outside the cache is read as its first or last row; those of the other axes are not touched."""
    case = rotated_by(("chunked", 8, 12, 12), rest=0, tokens=4, heads=2, kv_heads=1, max_position=11)
    case.positions[axis] = torch.tensor([-(2**31), -1, 11, 2**31 - 1])
    check(case, in_place=False)


@pytest.mark.parametrize("order", ORDERS)
def test_what_a_pair_of_lanes_does_not_take_may_be_anything(order: str) -> None:
    """A third of the cache's rows is for each axis, and has NaN or infinity in the lanes that others take."""
    case = rotated_by((order, 8, 12, 12), rest=0, tokens=5, heads=2, kv_heads=1, max_position=96)
    of_lane = torch.tensor(["thw".index(axis) for axis in 2 * case.axes])
    for axis in range(3):
        case.positions[axis] = torch.randint(32 * axis, 32 * (axis + 1), (5,))
        case.cache[32 * axis : 32 * (axis + 1), of_lane != axis] = (torch.nan, torch.inf)[axis % 2]
    check(case, in_place=False)


def test_three_equal_rows_are_one_position() -> None:
    case = rotated_by(("interleaved", 11, 11, 10), rest=8, tokens=5, heads=2, kv_heads=1)
    case.positions[:] = case.positions[0].clone()
    case.positions = case.positions[:1].expand(3, -1)
    assert case.positions.stride(0) == 0
    text = rotation(5, 2, 1, 72, 64)
    text.positions, text.query, text.key, text.cache = case.positions[0], case.query, case.key, case.cache
    outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (case.query, case.key)] * 2
    outputs = [x.clone() for x in outputs]
    from tests.rotations import launch

    launch(case.call(), *outputs[:2])
    launch(text.call(), *outputs[2:])
    assert all(torch.equal(a, b) for a, b in zip(outputs[:2], outputs[2:], strict=True))


def test_an_order_that_no_kernel_knows_is_not_guessed() -> None:
    assert order_of("wht") is None
    assert order_of("thwthwthwthtwth") is None
    assert axes_of((8, 12, 12), "chunked", 128) == ""
    assert axes_of(None, "chunked", 64) == ""
