"""vllm-ascend's engine in operation: switched off and on, reloaded, and with a compiler that refuses a kernel.

Run in an environment of ``stack_environment``, on the host CANN; ``operation.py`` has the steps.
"""

from typing import Any

import pytest

from tests.ascend_stack import generate
from tests.ascend_stack.engine_process import needs_engine, newest_only
from tests.ascend_stack.processes import table

pytestmark = [
    needs_engine,
    pytest.mark.timeout(1800),
    newest_only("the model runners' reloading differs"),
]
CALLS = 2 * generate.NEW_TOKENS  # two layers
KV_CACHE = 2 * 2 * generate.BLOCKS * 128 * 2 * 64 * 4  # bytes: keys and values, layers, blocks of 128 tokens, heads


@pytest.fixture(scope="module")
def steps() -> Any:
    return table("tests.ascend_stack.operation", "1")


@pytest.mark.parametrize("step", ["disabled", "enabled", "reloaded", "woken", "faulty", "after"])
def test_requests_get_the_same_tokens_in_every_step(steps: Any, step: str) -> None:
    assert steps[step]["tokens"] == steps["at first"]["tokens"]


def test_without_weights_the_tokens_differ(steps: Any) -> None:
    assert steps["zeroed"]["tokens"] != steps["at first"]["tokens"]


@pytest.mark.parametrize(
    ("step", "calls"),
    [("disabled", 0), ("enabled", CALLS), ("reloaded", CALLS), ("woken", CALLS), ("after", CALLS)],
)
def test_who_serves_follows_the_switch(steps: Any, step: str, calls: int) -> None:
    assert sum(steps[step]["worker"]["calls"].values()) == calls
    assert steps[step]["worker"]["fallbacks"] == {}


def test_sleep_gave_back_the_memory_and_kept_the_rotary_cache(steps: Any) -> None:
    memory = steps["woken"]["memory"]
    awake, asleep, again = memory["free bytes"]
    assert asleep - awake > KV_CACHE
    assert asleep - again > KV_CACHE
    assert memory["weights lost"]
    assert memory["buffers kept"]


def test_a_new_layout_whose_kernel_the_compiler_refuses_is_served_natively(steps: Any) -> None:
    worker = steps["faulty"]["worker"]
    assert (worker["calls"], sum(worker["fallbacks"].values())) == ({}, CALLS)
    assert any("ub overflow" in signature["check"] for signature in worker["signatures"].values())
