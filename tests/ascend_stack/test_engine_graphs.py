"""vllm-ascend's engine with graphs: its own compiler, pieces or whole steps captured, decoding replayed.

On 0.23.0; on 0.30.0rc2 one patched engine for each mode. Run in their environments of ``stack_environment``, on the
host CANN. Tokens are compared with those of vLLM's own rotary code in eager mode.
"""

from typing import Any

import pytest

from tests.ascend_stack import generate
from tests.ascend_stack.engine import NEWEST
from tests.ascend_stack.engine_process import EAGER, VERSION, needs_engine, newest_only
from tests.ascend_stack.processes import table
from tests.ascend_stack.tested import having

pytestmark = [
    needs_engine,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(VERSION not in having("graphs"), reason="graphs are not tried with this release"),
]
LAYERS = 2
MODES = ("piecewise", "full")
ALL = VERSION == NEWEST
WAYS = ("patched", "off", "patched") if ALL else ("patched",)
TITLES = ["patched", "off", "patched, again"][: len(WAYS)]


@pytest.fixture(scope="module")
def eager() -> Any:
    """The same runs as in ``test_engine_tokens.py``, which shares them."""
    return table("tests.ascend_stack.generate", "1", *EAGER)["GLM-4"]


@pytest.fixture(scope="module")
def graphs() -> Any:
    """By mode: patched, switched off, and patched again; the second and third run use the compile cache of the earlier
    ones."""
    arguments = ("--mode", *MODES, "--ways", *WAYS, *(["--anew"] if ALL else []))
    return table("tests.ascend_stack.generate", "1", "GLM-4", *arguments)["GLM-4"]


@pytest.mark.parametrize("way", TITLES)
@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_those_of_vllms_own_code_in_eager_mode(graphs: Any, eager: Any, mode: str, way: str) -> None:
    assert graphs[f"{mode} {way}"]["tokens"] == eager["vllm"]["tokens"]


@pytest.mark.parametrize("way", TITLES[:2])
@pytest.mark.parametrize("mode", MODES)
def test_decoding_is_replayed(graphs: Any, mode: str, way: str) -> None:
    counts = graphs[f"{mode} {way}"]["host_functions"]
    assert counts["replayed"] > counts["captured"] > 0


@pytest.mark.parametrize("mode", MODES)
def test_the_kernel_serves_warm_up_captures_and_prefill_and_replays_make_no_calls(graphs: Any, mode: str) -> None:
    start, after = graphs[f"{mode} patched"]["at_start"], graphs[f"{mode} patched"]["worker"]
    assert sum(start["calls"].values()) > LAYERS
    assert sum(after["calls"].values()) == LAYERS
    assert (start["fallbacks"], after["fallbacks"]) == ({}, {})


@newest_only("switched off on one release")
@pytest.mark.parametrize("mode", MODES)
def test_patched_and_switched_off_engines_do_not_share_compiled_graphs(graphs: Any, mode: str) -> None:
    off = graphs[f"{mode} off"]
    assert off["worker"]["mode"] == "off"
    assert (off["at_start"]["calls"], off["worker"]["calls"]) == ({}, {})


@newest_only("captured anew on one release")
@pytest.mark.parametrize("later", [*generate.AGAIN, "woken"])
def test_graphs_that_are_captured_anew_or_kept_in_sleep_give_the_same_tokens(graphs: Any, later: str) -> None:
    assert graphs[f"full {later}"]["tokens"] == graphs["full patched"]["tokens"]


@newest_only("captured anew on one release")
def test_what_is_first_seen_during_capture_is_native_there_and_trusted_afterwards(graphs: Any) -> None:
    captured, after = graphs["full unseen"]["at_start"], graphs["full unseen"]["worker"]
    sizes = len(generate.SIZES)
    assert (captured["calls"], captured["fallbacks"]) == ({}, {"first seen during graph capture": LAYERS * sizes})
    assert after["calls"] == {"eager": LAYERS}
    assert "passed" in {signature["check"] for signature in after["signatures"].values()}
    seen = graphs["full seen"]["at_start"]
    assert (seen["calls"], seen["fallbacks"]) == ({"eager": 2 * LAYERS * sizes}, {}), "run and captured"


@newest_only("captured anew on one release")
def test_graphs_that_are_captured_while_we_are_off_make_no_calls(graphs: Any) -> None:
    disabled = graphs["full disabled"]
    assert (disabled["at_start"]["calls"], disabled["worker"]["calls"]) == ({}, {})
