"""vllm-ascend's engine, worker and model runner: the tokens of nine models, with rope_patch and without.

Two of them see images, whose tokens have three positions that differ; in float32 they run on 0.23.0 and 0.30.0rc2.

Run in an environment of ``stack_environment``, on the host CANN. One process a release loads vLLM once;
``generate.py`` says what the ways are.
"""

from typing import Any, cast

import pytest

from tests.ascend_stack import engine, generate, vision
from tests.ascend_stack.engine_process import (
    EAGER,
    IN_BFLOAT16,
    MODELS,
    SWITCHED_OFF,
    VERSION,
    needs_engine,
    newest_only,
)
from tests.ascend_stack.processes import table
from tests.ascend_stack.release import since
from tests.conftest import ROOT

pytestmark = [needs_engine, pytest.mark.timeout(1800)]  # the first test waits for all models

LAYERS, STEPS = 2, generate.NEW_TOKENS
# vllm-ascend's own kernel is wrong for rotary dims that are no power of two; 0.13 and older have no such kernel.
# With MRoPE it gives GLM-OCR's heads, GPT-J, to an operator for NeoX: targets/ascend_mrope.py.
# 0.28.0rc1 mended its kernel.
WRONG = ({"GLM-OCR"} if since("0.28.0rc1") else {"Phi-3", "StableLM", "GLM-OCR"}) if since("0.15") else set()
# Its compiler refuses that kernel on 0.18: GPT-J of 64 heads does not fit the unified buffer.
REFUSED = {"ERNIE-4.5"} if VERSION == "0.18.0" else set()
# Full rotary of the base class is left to the vendor's operator on 0.13.
LEFT = set() if since("0.15") else {"Phi-3"}
# vLLM's code rounds to bfloat16 at each step, the kernel once; two layers of sharp attention enlarge the difference.
# Halved positions change log-probabilities by more than 3.
TOLERANCE = 0.25


Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    return cast("dict[str, Found]", table("tests.ascend_stack.generate", "1", *EAGER))


@pytest.fixture(scope="module")
def float32(found: dict[str, Found]) -> dict[str, Found]:
    return {model: found[model] for model in MODELS}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_engine_runs_vllm_ascends_worker_on_a_device(float32: dict[str, Found], model: str) -> None:
    worker = float32[model]["patched"]["worker"]
    assert worker["platform"].startswith("vllm_ascend.worker.")
    assert worker["device"] == "npu:0"


def test_a_patched_engine_generates_what_vllms_own_rotary_code_does(float32: dict[str, Found], model: str) -> None:
    ways = float32[model]
    assert ways["patched"]["tokens"] == ways["vllm"]["tokens"]
    (file,) = ways["vllm"]["worker"]["files"]
    assert file.endswith(
        f"vllm/model_executor/layers/rotary_embedding/{'mrope' if model in vision.MODELS else 'base'}.py"
    )
    assert ways["vllm"]["worker"]["calls"] == {}, "the kernel took no part"


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_switched_off_engine_generates_what_one_without_us_does(float32: dict[str, Found], name: str) -> None:
    ways = float32[name]
    assert ways["off"]["worker"]["mode"] == "off"
    assert not ways["unpatched"]["worker"]["imported"]
    for what in ("tokens", "prompt_logprobs"):
        assert ways["off"][what] == ways["unpatched"][what]
    assert ways["off"]["worker"]["files"] == ways["unpatched"]["worker"]["files"]


def test_a_wrong_rotation_generates_other_tokens(float32: dict[str, Found], model: str) -> None:
    assert float32[model]["wrongly"]["tokens"] != float32[model]["patched"]["tokens"]


def test_vllm_ascend_by_itself_is_wrong_for_exactly_these_models(float32: dict[str, Found], model: str) -> None:
    if model in REFUSED:
        assert "MLIRCompilationError" in float32[model]["unpatched"]["raised"]
        return
    same = float32[model]["unpatched"]["tokens"] == float32[model]["vllm"]["tokens"]
    assert same == (model not in WRONG)


def test_the_kernel_served_every_call_of_every_layer(float32: dict[str, Found], model: str) -> None:
    worker = float32[model]["patched"]["worker"]
    calls = LAYERS * STEPS
    assert worker["capable"]
    if model in LEFT:
        assert (worker["calls"], sum(worker["fallbacks"].values())) == ({}, calls)
        return
    assert (worker["calls"], worker["fallbacks"]) == ({"eager": calls}, {})
    assert {signature["check"] for signature in worker["signatures"].values()} == {"passed"}


def test_the_target_is_the_one_that_the_release_calls(float32: dict[str, Found], model: str) -> None:
    worker = float32[model]["patched"]["worker"]
    applied = {name for name, outcome in worker["targets"].items() if outcome == "applied"}
    of_the_base_class = "ascend_rotary_class" if LEFT else "ascend_rope_kernel"
    assert {"rotary_embedding", of_the_base_class, "mrope", "ascend_mrope"} <= applied
    expected = "AscendMRotaryEmbedding" if model in vision.MODELS else "AscendRotaryEmbedding"
    expected = "Llama3RotaryEmbedding" if model == "Llama-3" else expected
    assert worker["classes"] == [expected], "which of the targets takes its calls"


@pytest.mark.parametrize("name", [name for name in MODELS if name in vision.MODELS])
def test_a_prompt_with_an_image_depends_on_all_three_positions(float32: dict[str, Found], name: str) -> None:
    """In the way "flatly" they are equal, as in a prompt of words."""
    ways = float32[name]
    assert ways["flatly"]["tokens"] != ways["patched"]["tokens"]
    image, words, image_first = differences(ways["flatly"], ways["patched"])
    assert words == 0
    assert min(image, image_first) > 0.1
    assert all("axes chunked" in signature for signature in ways["patched"]["worker"]["signatures"])


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """The largest difference between the log-probabilities of a prompt's tokens, for each prompt; 0 of one token."""
    pairs = zip(one["prompt_logprobs"], other["prompt_logprobs"], strict=True)
    return [max((abs(a - b) for a, b in zip(*pair, strict=True)), default=0) for pair in pairs]


@newest_only("the table of the README here is of the newest release")
def test_the_readme_has_the_table_that_the_command_prints(float32: dict[str, Found]) -> None:
    assert engine.as_promised(float32)
    rows = [engine.row(model, ways) for model, ways in float32.items()]
    assert "\n".join((*engine.HEAD, *rows)) in (ROOT / "tests" / "ascend_stack" / "README.md").read_text()


@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_in_bfloat16_log_probabilities_are_those_of_vllms_code(found: dict[str, Found], name: str) -> None:
    ways = found[f"{name} bfloat16"]
    assert "raised" not in ways, ways
    differs = {way: max(differences(ways[way], ways["vllm"])) for way in ("patched", "wrongly")}
    assert differs["patched"] < TOLERANCE < differs["wrongly"]
