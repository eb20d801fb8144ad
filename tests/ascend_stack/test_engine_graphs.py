"""vllm-ascend's engine with PIECEWISE graphs: its own compiler, pieces captured, decoding replayed. 0.23.0.

Run in its environment of ``stack_environment``, on the host CANN. Tokens are compared with those of vLLM's own rotary
code in eager mode.
"""

from typing import Any

import pytest

from tests.ascend_stack import tiny
from tests.ascend_stack.engine_process import VERSION, needs_engine
from tests.ascend_stack.processes import table

pytestmark = [
    needs_engine,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(VERSION != "0.23.0", reason="graphs were tried with 0.23.0 only"),
]
LAYERS = 2


@pytest.fixture(scope="module")
def eager() -> Any:
    """The same runs as in ``test_engine_tokens.py``, which shares them."""
    return table("tests.ascend_stack.generate", "1", *tiny.NAMES)["GLM-4"]


@pytest.fixture(scope="module")
def piecewise() -> Any:
    """Patched, switched off, and patched again; the second and third run use the compile cache of the earlier ones."""
    ways = ("--ways", "patched", "off", "patched")
    return table("tests.ascend_stack.generate", "1", "GLM-4", "--mode", "piecewise", *ways)["GLM-4"]


@pytest.mark.parametrize("way", ["patched", "off"])
def test_tokens_are_those_of_vllms_own_code_in_eager_mode(eager: Any, piecewise: Any, way: str) -> None:
    assert piecewise[way]["tokens"] == eager["vllm"]["tokens"]


@pytest.mark.parametrize("way", ["patched", "off"])
def test_decoding_is_replayed(piecewise: Any, way: str) -> None:
    counts = piecewise[way]["host_functions"]
    assert counts["replayed"] > counts["captured"] > 0


def test_the_kernel_serves_warm_up_captures_and_prefill_and_replays_make_no_calls(piecewise: Any) -> None:
    start, after = piecewise["patched"]["at_start"], piecewise["patched"]["worker"]
    assert sum(start["calls"].values()) > LAYERS
    assert sum(after["calls"].values()) == LAYERS
    assert (start["fallbacks"], after["fallbacks"]) == ({}, {})


def test_patched_and_switched_off_engines_do_not_share_compiled_graphs(piecewise: Any) -> None:
    assert piecewise["off"]["worker"]["mode"] == "off"
    assert (piecewise["off"]["at_start"]["calls"], piecewise["off"]["worker"]["calls"]) == ({}, {})
