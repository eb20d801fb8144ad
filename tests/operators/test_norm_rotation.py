"""Norm and rotation as an operator: what it computes, what it refuses, and what it does with a wrong kernel."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="calls need torch")
pytest.importorskip("triton", reason="calls need triton")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rope_patch.kernels.launch import INTERPRETED, Launch, device_facts  # noqa: E402
from rope_patch.kernels.planning import plans_of  # noqa: E402
from rope_patch.operators import dispatch, norm_contract  # noqa: E402
from rope_patch.operators.norm_rotation import KERNELS, NormRotationCall  # noqa: E402
from rope_patch.reporting import ledger, log  # noqa: E402
from rope_patch.serving import first_use  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.norm_rotations import Case, assert_right, case  # noqa: E402
from tests.rotations import DEVICE  # noqa: E402

SMALL = {"num_heads": 2, "num_kv_heads": 1, "head_size": 32, "rotary_dim": 16}
ORDERS: dict[str, Callable[[int], str]] = {
    "": lambda pairs: "",
    "interleaved": lambda pairs: "thw" * (pairs // 3) + "t" * (pairs % 3),
    "chunked": lambda pairs: "t" + "h" * (pairs - 3) + "ww",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tiles in an interpreter, of which a check tries three."""
    if INTERPRETED:
        small = replace(device_facts(torch.device(DEVICE)), tile_bytes=4096)
        monkeypatch.setattr(first_use, "device_facts", lambda device: small)
    dispatch.forget()
    log.warned.clear()
    yield
    dispatch.forget()


def serve(one: Case) -> bool:
    return norm_contract.serve(one.tensors, one.angles, one.asked)


@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.sampled_from([(32, 32), (32, 16), (40, 24), (64, 20)]),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32]), st.sampled_from([None, torch.float32]),
    st.sampled_from([None, torch.float32]), st.sampled_from([torch.int32, torch.int64]), st.booleans(), st.booleans(),
    st.sampled_from(sorted(ORDERS)), st.sampled_from(["", "rows", "apart"]), st.sampled_from([0, 16, 7]),
)  # fmt: skip
@settings(max_examples=6, deadline=None)
def test_every_plan_of_every_call_that_is_taken_is_right(
    num_tokens: int, num_heads: int, num_kv_heads: int, sizes: tuple[int, int], dtype: Any, cache_dtype: Any,
    weight_dtype: Any, positions_dtype: Any, bias: bool, gate: bool, order: str, gathered: str, padding: int,
) -> None:  # fmt: skip
    head_size, rotary_dim = sizes
    axes = ORDERS[order](rotary_dim // 2)
    one = case(
        num_tokens, num_heads, num_kv_heads, head_size, rotary_dim, dtype=dtype, cache_dtype=cache_dtype,
        weight_dtype=weight_dtype, positions_dtype=positions_dtype, bias=bias, gate=gate, axes=axes,
        gathered="rows" if axes and gathered else gathered, padding=padding,
    )  # fmt: skip
    call = one.call()
    device = device_facts(call.device)
    for plan in plans_of(call.kernels, call.shape, device):
        if num_tokens >= plan.least_tokens:
            for result in call.in_place:
                result.fill_(float("nan"))
            call.launch(plan, device).on(call)
            assert_right(one)


def test_a_call_is_checked_then_served_and_counted() -> None:
    one = case(5, **SMALL)
    assert serve(one)
    assert_right(one)
    assert ledger.calls() == {"fused": 1}
    ((name, entry),) = ledger.signatures().items()
    assert entry["check"] == "passed"
    words = "norm and rotation, neox bfloat16 heads 2/1 head_size 32 rotary_dim 16 eps 1e-06 weights bfloat16 cache"
    assert name.startswith(words)


def test_a_call_of_a_layout_that_was_served_before_is_started_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted_runner.install(monkeypatch)
    assert serve(case(5, **SMALL))
    monkeypatch.setattr(NormRotationCall, "launch", lambda *arguments: pytest.fail("worked out again"))
    for seed in (1, 2):
        one = case(5, **SMALL, seed=seed)
        assert serve(one)
        assert_right(one)
    assert ledger.calls() == {"fused": 3}


def test_no_tokens_are_served_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launch, "on", lambda *arguments: pytest.fail("started"))
    assert serve(case(0, **SMALL))


def test_positions_outside_the_cache_spoil_their_own_token_only() -> None:
    one = case(5, **SMALL)
    one.angles.positions[2] = 10**6
    one.rows[2] = one.angles.cos[-1].cpu()  # clamped
    assert serve(one)
    assert_right(one)


def other(dtype: Any = None, shape: tuple[int, ...] | None = None, strided: bool = False) -> Any:
    """A tensor like the given one, but for that."""

    def make(tensor: Any) -> Any:
        made = torch.zeros(shape or tensor.shape, dtype=dtype or tensor.dtype, device=tensor.device)
        return made.repeat_interleave(2, -1)[..., ::2] if strided else made

    return make


REFUSED: dict[str, tuple[str, Any, str]] = {
    "int qkv": ("qkv", other(torch.int32), "qkv of float16, bfloat16 or float32"),
    "qkv of other heads": ("qkv", other(shape=(5, 96)), r"qkv of shape \[num_tokens, 128\]"),
    "lanes apart": ("qkv", other(strided=True), "qkv whose lanes are contiguous"),
    "another dtype out": ("query", other(torch.float16), "results of qkv's dtype"),
    "a result of another size": ("value", other(shape=(5, 64)), "results of qkv's dtype"),
    "a strided result": ("key", other(strided=True), "contiguous results"),
    "a bias without the other": ("q_bias", lambda _: torch.zeros(32, device=DEVICE), "biases of q and k, or none"),
    "a weight of another size": ("k_weight", other(shape=(16,)), "weights and biases of head_size numbers"),
    "a cache of another dtype": ("cos", other(torch.float16), "of qkv's dtype or float32"),
    "a narrow cache": ("cos", other(shape=(97, 8)), "a cache of shape"),
    "positions of int16": ("positions", other(torch.int16), "positions of int32 or int64"),
    "too few positions": ("positions", other(shape=(4,)), r"positions of shape \[num_tokens\]"),
    "a position for each axis": ("positions", other(shape=(3, 5)), r"positions of shape \[num_tokens\]"),
}


@pytest.mark.parametrize(("name", "made", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_it_does_not_take_is_handed_back_untouched_and_counted(name: str, made: Any, expected: str) -> None:
    one = case(5, **SMALL)
    part = "angles" if name in ("cos", "positions") else "tensors"
    tuple_ = getattr(one, part)
    setattr(one, part, tuple_._replace(**{name: made(getattr(tuple_, name))}))
    before = [result.clone() for result in one.tensors[1:4]]
    assert not serve(one)
    (reason,) = ledger.fallbacks()
    assert re.search(expected, reason), reason
    for result, was in zip(one.tensors[1:4], before, strict=True):
        assert torch.equal(result.cpu().nan_to_num(), was.cpu().nan_to_num())


def test_sines_of_another_type_than_cosines_are_handed_back() -> None:
    one = case(5, **SMALL, gathered="apart")
    one.angles = one.angles._replace(sin=one.angles.sin.float())
    assert not serve(one)
    assert ledger.fallbacks() == {"expected cosines and sines of one dtype": 1}


def test_results_within_qkv_are_handed_back() -> None:
    one = case(1, **SMALL)
    one.tensors = one.tensors._replace(key=one.tensors.qkv[:, 64:96])
    assert not serve(one)
    assert ledger.fallbacks() == {"expected results that share no memory with qkv": 1}


def test_types_that_make_another_compiled_kernel_make_another_signature() -> None:
    kinds = torch.float32, torch.bfloat16
    seen: dict[tuple[object, ...], tuple[Any, ...]] = {}
    for dtypes in itertools.product(kinds, repeat=4):
        one = case(3, **SMALL, bias=True)
        weights = [weight.to(dtype) for weight, dtype in zip(one.tensors[5:], dtypes, strict=True)]
        call = replace(one, tensors=one.tensors._make([*one.tensors[:5], *weights])).call()
        assert seen.setdefault(call.words(device_facts(call.device)), dtypes) == dtypes


def test_memory_that_was_freed_is_handed_back() -> None:
    one = case(5, **SMALL)
    one.tensors.qkv.untyped_storage().resize_(0)
    assert not serve(one)
    (reason,) = ledger.fallbacks()
    assert "whose memory was freed" in reason


def kernel_of(change: Any) -> tuple[type, ...]:
    """The kernels, whose constants ``change`` may alter."""

    def altered(kernel: Any) -> type:
        class Altered(kernel):  # type: ignore[misc]
            def constants(self, shape: Any, stride_unit: int = 1) -> dict[str, Any]:
                return change(super().constants(shape, stride_unit))

        return Altered

    return tuple(map(altered, KERNELS))


WRONG: dict[str, Any] = {
    "eps": lambda constants: constants | {"EPS": 0.1},
    "half of the rotation": lambda constants: constants | {"HALF": constants["HALF"] // 2},
    "a head too few": lambda constants: constants | {"Q_HEADS": constants["Q_HEADS"] - 1},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_wrong_kernel_is_rejected_and_one_warning_says_so(
    change: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(NormRotationCall, "kernels", kernel_of(change))
    for _ in range(2):
        assert not serve(case(5, **SMALL))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("rope_patch: native norm and rotation for norm and rotation, neox bfloat16 heads 2/1")
    assert "first-use check failed: " in warning
    assert warning.endswith("lanes wrong")
    ((reason, count),) = ledger.fallbacks().items()
    assert (count, reason in warning) == (2, True)


def test_a_kernel_whose_result_changes_from_run_to_run_is_rejected_in_these_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []
    right = Launch.on

    def on(launch: Launch, call: NormRotationCall, *new: Any) -> None:
        right(launch, call, *new)
        runs.append(1)
        if len(runs) % 3 == 0:  # right, mostly
            call.tensors.key[0, 3] += 1

    monkeypatch.setattr(Launch, "on", on)
    assert not serve(case(5, **SMALL))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "first-use check failed: different from run to run: 1 of" in warning
    assert "key lanes" in warning
