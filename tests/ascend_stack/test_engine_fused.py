"""vllm-ascend's engine with models whose norms and rotation are one operator of its own: ours in its kernel's place.

Qwen3 and GLM-4.5 in bfloat16 with graphs, where a pass of its compiler puts the operator into each layer; Qwen3-VL,
whose attention calls one, in eager mode. Run in the environments of ``stack_environment``, on the host CANN; one
process a release loads vLLM once. ``fused.py`` says what the ways are.
"""

from statistics import median
from typing import Any, cast

import pytest

from tests.ascend_stack import fused, generate
from tests.ascend_stack.engine_process import VERSION, needs_engine
from tests.ascend_stack.processes import table

pytestmark = [
    needs_engine,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(VERSION not in fused.ON, reason=f"tried with {', '.join(fused.ON)}"),
]
LAYERS, STEPS = 2, generate.NEW_TOKENS
UPSTREAM = {
    "vllm::qkv_rmsnorm_rope": "split_qkv_rmsnorm_rope_kernel",
    "vllm::triton_split_qkv_rmsnorm_mrope": "split_qkv_rmsnorm_mrope_kernel",
}
# Everything else of these engines rounds to bfloat16 too, and both ways alike only until the first difference.
CHANCE = 1.05
OURS = "normed_kernel_"  # and which of them
ROTATION = "rotary_kernel_"

Ways = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> dict[str, Ways]:
    return cast("dict[str, Ways]", table("tests.ascend_stack.fused", "1", *fused.ON[VERSION]))


@pytest.fixture(params=fused.ON.get(VERSION, ()))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ways(found: dict[str, Ways], model: str) -> Ways:
    return found[model]


def has_graphs(model: str) -> bool:
    return fused.MODELS[model][1] == "piecewise"


def calls(model: str) -> int:
    """Of the operator, for the requests: graphs are replayed, so only the prompts' step calls it."""
    return LAYERS * (1 if has_graphs(model) else STEPS)


def ran(kernels: dict[str, int], beginning: str) -> int:
    return sum(count for name, count in kernels.items() if name.startswith(beginning))


def test_natively_each_layer_is_fused_and_upstreams_kernel_runs(ways: Ways, model: str) -> None:
    operator, _ = fused.MODELS[model]
    assert ways["off"]["operators"] == {operator: calls(model)}
    assert ways["off"]["kernels"][UPSTREAM[operator]] == LAYERS * STEPS, "replays included"
    assert ways["off"]["worker"]["mode"] == "off"


def test_with_us_the_operator_is_called_as_often(ways: Ways) -> None:
    native, patched = ways["off"], ways["patched"]
    assert patched["operators"] == native["operators"]
    assert patched["start"]["operators"] == native["start"]["operators"]


def test_every_call_is_served_by_our_kernel(ways: Ways, model: str) -> None:
    worker, kernels = ways["patched"]["worker"], ways["patched"]["kernels"]
    upstream = UPSTREAM[fused.MODELS[model][0]]
    assert (worker["calls"], worker["fallbacks"]) == ({"fused": calls(model)}, {})
    assert {signature["check"] for signature in worker["signatures"].values()} == {"passed"}
    assert ran(kernels, OURS) == LAYERS * STEPS, "replays included"
    assert ran(kernels, upstream) == ran(kernels, ROTATION) == 0


def test_so_is_every_call_at_the_start(ways: Ways, model: str) -> None:
    native, patched = ways["off"]["start"], ways["patched"]["start"]
    upstream = UPSTREAM[fused.MODELS[model][0]]
    captured = LAYERS * len(generate.SIZES) if has_graphs(model) else 0  # and not run
    assert patched["worker"]["calls"]["fused"] == ran(native["kernels"], upstream) + captured
    assert ran(patched["kernels"], upstream) == 0


def errors(ways: Ways, way: str) -> list[float]:
    """Differences of the prompts' log-probabilities from those of vLLM's own code in float32."""
    pairs = zip(ways[way]["prompt_logprobs"], ways["vllm"]["prompt_logprobs"], strict=True)
    return [abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)]


def test_log_probabilities_are_no_further_from_vllms_own_code_than_natively(ways: Ways) -> None:
    """By the median: where a rounding sends a token to other experts, it differs far more than the rest."""
    assert 0 < median(errors(ways, "patched")) <= CHANCE * median(errors(ways, "off"))


def test_in_float32_tokens_are_those_of_vllms_own_code(ways: Ways, model: str) -> None:
    float32 = ways["float32"]
    assert float32["tokens"] == ways["vllm"]["tokens"]
    assert max(errors(ways, "float32")) < 1e-3
    assert not ways["vllm"]["operators"]
    if has_graphs(model):  # then nothing is fused, and the rotary class is called
        assert not float32["operators"]
        assert (float32["worker"]["calls"], float32["worker"]["fallbacks"]) == ({"eager": LAYERS * STEPS}, {})
        assert ran(float32["kernels"], ROTATION) == LAYERS * STEPS
