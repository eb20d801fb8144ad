"""Undo, order of imports, and copies of functions, on the released stacks.

Run in each environment of ``stack_environment``, on the host CANN; see the README. rope_patch first of all is what the
other files do; here it comes late, in a process of its own each, on the releases at the two ends of what is replaced.
"""

import contextlib
import importlib
import importlib.util
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.ascend_stack import processes
from tests.ascend_stack.harness import EVENTS, Stack, needs_stack, start

pytestmark = needs_stack
# Modules of vllm-ascend that import names from ops.rotary_embedding, by release; only those that can be imported here.
COPIES = ("vllm_ascend.ops", "vllm_ascend.ops.register_custom_ops", "vllm_ascend._310p.ops.rotary_embedding")
LATE = (*EVENTS, "model built")
TRIED = {"0.13.0": LATE, "0.23.0": (LATE[0], LATE[-1])}


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def place(stack: Stack) -> tuple[Any, str, str]:
    """The function of vllm-ascend that we replace: its holder, its name, and its path in ``status()``."""
    module = "vllm_ascend.ops.rotary_embedding"
    if stack.has_triton_path:
        return stack.rotary_embedding, "rope_forward_triton", f"{module}.rope_forward_triton"
    return stack.rotary_embedding.AscendRotaryEmbedding, "forward_oot", f"{module}.AscendRotaryEmbedding.forward_oot"


@pytest.mark.parametrize("event", LATE)
def test_imported_late_it_serves_and_disabled_it_leaves_no_trace(stack: Stack, event: str) -> None:
    if event not in TRIED.get(stack.version, ()):
        pytest.skip("every order is tried on 0.13.0, the earliest and the latest on 0.23.0")
    found = processes.table("tests.ascend_stack.orders", "1", event)
    applied = [name for name, state in found["targets"].items() if state == "applied"]
    assert applied == stack.targets
    assert found["served"] == found["served after enable"] == [1, 1]
    assert found["served after disable"] == [0, 0]
    assert found["identical after disable"]
    assert found["identical in the end"]
    assert not found["ours after disable"]
    assert found["ours"] == found["ours after enable"]
    assert found["ours"][-1], "the live Llama 3 model is bound to ours"


def test_vllm_ascend_itself_copies_nothing_that_is_replaced(stack: Stack) -> None:
    import rope_patch

    for name in COPIES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    rope_patch.disable()
    rope_patch.enable()
    assert rope_patch.status()["stale"] == {}


def test_a_copy_of_the_original_is_reported_and_a_copy_of_ours_is_undone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rope_patch

    holder, name, path = place(stack)
    early, late = ModuleType("early"), ModuleType("late")
    for module in (early, late):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    late.copy = getattr(holder, name)
    rope_patch.disable()
    try:
        original = getattr(holder, name)
        assert late.copy is original, "a copy of ours would go on serving"
        early.copy = original
        del late.copy
    finally:
        rope_patch.enable()
    assert rope_patch.status()["stale"] == {path: ["early.copy"]}
    assert early.copy is original, "whose it is, we cannot know"


def test_a_later_replacement_by_torchair_of_0_11_is_left_alone(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It assigns ``AscendRotaryEmbedding.forward_oot``; undoing ours must not undo theirs."""
    if importlib.util.find_spec("vllm_ascend.torchair") is None:
        pytest.skip("this release has no torchair mode of its own")
    from vllm_ascend.torchair.utils import torchair_ops_patch

    import rope_patch

    ascend = stack.rotary_embedding.AscendRotaryEmbedding
    ours = ascend.forward_oot
    assigned = [
        getattr(importlib.import_module(f"vllm_ascend.ops.{module}"), name)
        for module, name in (
            ("rotary_embedding", "AscendRotaryEmbedding"),
            ("rotary_embedding", "AscendDeepseekScalingRotaryEmbedding"),
            ("layernorm", "AscendRMSNorm"),
            ("layernorm", "AscendQuantRMSNorm"),
            ("activation", "AscendSiluAndMul"),
            ("vocab_parallel_embedding", "AscendVocabParallelEmbedding"),
        )
    ]
    saved = [(cls, dict(vars(cls))) for cls in assigned]
    torchair_ops_patch()
    try:
        theirs = ascend.forward_oot
        assert "torchair" in theirs.__code__.co_filename
        assert re.match("gone: .*torchair.* is there instead", rope_patch.status()["targets"]["ascend_rotary_class"])
        rope_patch.disable()
        assert ascend.forward_oot is theirs
        assert rope_patch.status()["targets"]["ascend_rotary_class"].startswith("taken back")
    finally:
        for cls, before in saved:
            for name in ("__init__", "forward", "forward_oot"):
                if name in before and vars(cls)[name] is not before[name]:
                    setattr(cls, name, before[name])
    assert ascend.forward_oot is ours
    rope_patch.disable()
    rope_patch.enable()
    assert ascend.forward_oot is ours
    assert rope_patch.status()["targets"]["ascend_rotary_class"] == "applied"
