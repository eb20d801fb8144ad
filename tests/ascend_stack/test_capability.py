"""If something is missing, the released stack stays as it was, and one line says why.

Run in the environments of ``stack_environment``, on the host CANN; see the README. Each situation costs seconds of
imports, so on one release.
"""

from typing import Any

import pytest

from tests.ascend_stack import processes
from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.models import LLAMA3

pytestmark = needs_stack
REASONS = {
    "no triton": "triton: ModuleNotFoundError",
    "mainline triton": "pip uninstall -y triton triton-ascend && pip install triton-ascend",
    "inactive driver": "driver: vLLM's HAS_TRITON is False",
    "310P": "chip: Atlas 310P",
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


@pytest.mark.parametrize("situation", REASONS)
def test_what_is_missing_is_logged_once_and_the_stack_behaves_as_without_us(stack: Stack, situation: str) -> None:
    if stack.version != "0.18.0":
        pytest.skip("tried on 0.18.0, the last whose 310P classes can be imported here")
    chip = "310P" if situation == "310P" else None
    module = "tests.ascend_stack.incapable"
    without, found = (processes.table(module, mode, situation, chip=chip) for mode in ("0", "1"))
    assert not found["capable"]
    assert REASONS[situation] in found["reason"]
    assert not found["calls"]
    assert all(state.startswith("native: ") for state in found["targets"].values() if state != "not imported")
    assert found["errors"] == without["errors"]
    assert isinstance(found["errors"]["llama3"], float)
    assert [level for level, _ in found["logged"]] == ["INFO"], found["logged"]
    assert REASONS[situation] in found["logged"][0][1]
    _says_off(without)


def _says_off(found: Any) -> None:
    ((level, line),) = found["logged"]
    assert level == "INFO"
    assert "off: switched off by VLLM_ASCEND_TRITON_ROPE=0; vLLM serves natively" in line


def test_with_nothing_missing_one_line_names_all_that_is_replaced(stack: Stack) -> None:
    found = processes.table("tests.ascend_stack.incapable", "1", "nothing missing")
    applied = stack.targets
    assert [name for name, state in found["targets"].items() if state == "applied"] == applied
    ((level, line),) = found["logged"]
    assert level == "INFO"
    assert f": {', '.join(applied)} applied ({found['reason']})" in line
    off = processes.table("tests.ascend_stack.incapable", "0", "nothing missing")
    _says_off(off)
    assert found["fused"] == dict.fromkeys(stack.fused, True)
    assert off["fused"] == dict.fromkeys(stack.fused, False), "upstream's kernels that norm and rotate are in place"


@pytest.mark.parametrize("mode", ["0", "1"])
def test_doctor_foretells_what_vllm_does_with_our_variables(stack: Stack, mode: str) -> None:
    found = processes.table("tests.ascend_stack.incapable", mode, "nothing missing")["variables"]
    known, untold = found["doctor"]
    if stack.version in ("0.11.0", "0.13.0"):
        assert found["refused"] == [None, None, None]
        assert known == untold == [None, "this vLLM does not look for variables that it does not know"]
        return
    complaint = "Unknown vLLM environment variable detected: "
    assert found["refused"] == ["", f"{complaint}VLLM_NOBODYS", f"{complaint}VLLM_ASCEND_TRITON_ROPE"]
    assert known[0] is True
    assert known[1].endswith("it knows ours, switched on or off")
    assert untold[0] is False
    assert untold[1].endswith("refuses them under --fail-on-environ-validation: VLLM_ASCEND_TRITON_ROPE")


def test_an_operator_that_vllm_was_told_to_disable_is_native(stack: Stack) -> None:
    from rope_patch.reporting import ledger

    custom_ops = stack.config.compilation_config.custom_ops
    before = list(custom_ops)
    custom_ops[:] = [*(op for op in before if "rotary_embedding" not in op), "-rotary_embedding"]
    try:
        embedding = stack.build("llama3", 64, **LLAMA3)
    finally:
        custom_ops[:] = before
    assert embedding._forward_method.__name__ == "forward_native"
    query = stack.torch.randn(5, 4 * 64).bfloat16().npu()
    ledger.reset()
    stack.rotate(embedding, stack.torch.arange(5).npu(), query, query)
    assert not ledger.calls()
