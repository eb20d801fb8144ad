"""What ``verify`` says of both sides of a rotary embedding: who serves, right or wrong, and what helps.

vLLM's module is a double here; ``test_bench.py`` runs the verb with the real one.
"""

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="verify needs torch")
pytest.importorskip("triton", reason="verify needs triton")

from rope_patch.cli import sides, synthetic, verdict  # noqa: E402
from rope_patch.cli.rope_config import RopeConfig  # noqa: E402
from rope_patch.cli.worker import Embedding  # noqa: E402
from rope_patch.operators import contract, dispatch, reference  # noqa: E402
from rope_patch.operators.rotation import Rotation  # noqa: E402
from tests.rotations import DEVICE  # noqa: E402

ROPE = RopeConfig("model", 64, 32, 2, 1, max_position=64)
OFF = "switched off by VLLM_ASCEND_TRITON_ROPE=0"


class RotaryEmbedding(torch.nn.Module):
    """As vLLM's: native code, or the kernel where rope_patch is on and takes the call."""

    __module__ = "vllm.double"

    def __init__(self, native: Callable[..., Any], patched: bool, left: str | None) -> None:
        super().__init__()
        self.head_size, self.rotary_dim, self.is_neox_style = 64, 32, True
        self.register_buffer("cos_sin_cache", synthetic.unscaled_table(ROPE, 64))
        self.native, self.patched, self.left, self.on = native, patched, left, True

    def forward(self, positions: Any, query: Any, key: Any) -> Any:
        if self.on and self.left:
            contract.hand_back(self.left)
        elif self.on and self.patched:
            return contract.serve(positions, query, key, self.cos_sin_cache, Rotation(64, 32, True))
        return self.native(self, positions, query, key)


class OddRotaryEmbedding(RotaryEmbedding):
    __module__ = "vllm.double"

    def forward_native(self, positions: Any, query: Any, key: Any) -> Any:
        return right(self, positions, query, key)


def right(module: Any, positions: Any, query: Any, key: Any) -> Any:
    def turned(tensor: Any) -> Any:
        heads = tensor.reshape(len(tensor), -1, 64)
        return reference.rotate(positions, heads, module.cos_sin_cache, Rotation(64, 32, True)).reshape(tensor.shape)

    return turned(query), turned(key)


def wrong(*call: Any) -> Any:
    query, key = right(*call)
    query[0, 5] += 1
    return query, key


def unsteady(*call: Any) -> Any:
    query, key = right(*call)
    return query * (1 + 1e-7 * torch.rand(())), key


def no_memory(*call: Any) -> Any:
    raise torch.OutOfMemoryError("NPU out of memory")


def judged(
    monkeypatch: pytest.MonkeyPatch,
    native: Any,
    patched: bool = True,
    left: str | None = None,
    kind: type[RotaryEmbedding] = RotaryEmbedding,
) -> tuple[sides.Both, verdict.Verdict]:
    dispatch.forget()
    module = kind(native, patched, left).to(DEVICE)
    status = {"targets": {}, "reason": OFF}
    double = SimpleNamespace(
        disable=lambda: setattr(module, "on", False), enable=lambda: setattr(module, "on", True), status=lambda: status
    )
    monkeypatch.setattr(sides, "rope_patch", double)
    worker: Any = SimpleNamespace(
        device=torch.device(DEVICE),
        build=lambda rope, dtype: Embedding(module, None, True),
        step=lambda module, positions: contextlib.nullcontext(),
    )
    both = sides.of_vllm(ROPE, "float32", worker)
    dispatch.forget()
    return both, verdict.of([both])


def test_both_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    both, said = judged(monkeypatch, right)
    assert (both.with_it.serves, both.with_it.outcome) == ("kernel", sides.RIGHT)
    assert (both.without.serves, both.without.outcome) == ("RotaryEmbedding.forward: PyTorch", sides.RIGHT)
    assert (said.ok, said.unknown, said.helps) == (True, False, [])


def test_native_code_that_is_wrong_is_no_fault_while_the_kernel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    both, said = judged(monkeypatch, wrong)
    assert (both.without.outcome, both.without.found.wrong) == (sides.WRONG, 2 * len(sides.TOKENS_INTERPRETED))
    assert both.without.found.max_error == pytest.approx(1, rel=0.1)
    assert said.ok
    assert "rope_patch serves it rightly" in said.helps[0]


@pytest.mark.parametrize(
    ("patched", "left", "helps"),
    [
        (False, None, f"serves now ({OFF}); the kernel is right"),
        (True, "left to npu_mrope, VLLM_ASCEND_TRITON_ROPE=all takes it", "VLLM_ASCEND_TRITON_ROPE=all gives it to"),
        (True, "left to a fusion", "serves now (left to a fusion); the kernel is right"),
    ],
    ids=["switched off", "left to the vendor", "left to a fusion"],
)
def test_native_code_that_is_wrong_and_serves_is_exit_status_1_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, patched: bool, left: str | None, helps: str
) -> None:
    both, said = judged(monkeypatch, wrong, patched, left)
    assert both.now.outcome == sides.WRONG
    assert both.kernel.outcome == sides.RIGHT
    assert (said.ok, said.unknown, said.text) == (False, False, "1 of 1 wrong")
    assert helps in said.helps[0]


def test_a_result_that_differs_from_run_to_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    both, said = judged(monkeypatch, unsteady, patched=False)
    assert both.without.outcome == sides.UNSTEADY
    assert not said.ok
    assert sides.UNSTEADY in verdict.of_side(both.without)


def raising(*call: Any) -> Any:
    raise TypeError("missing 1 required positional argument")


@pytest.mark.parametrize(("native", "why"), [(no_memory, "NPU out of memory"), (raising, "missing 1 required")])
def test_native_code_that_cannot_run_is_no_fault_while_the_kernel_serves(
    monkeypatch: pytest.MonkeyPatch, native: Any, why: str
) -> None:
    both, said = judged(monkeypatch, native)
    assert both.without.outcome == sides.NOT_KNOWN
    assert (said.ok, said.unknown) == (True, False)
    assert said.text.startswith("all 1 right, to rounding; without rope_patch 1 of 1 could not be run: ")
    assert why in said.text


def test_what_serves_and_could_not_be_checked_is_exit_status_2_and_says_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, said = judged(monkeypatch, no_memory, patched=False)
    assert both.now.outcome == sides.NOT_KNOWN
    assert (said.ok, said.unknown) == (False, True)
    assert "NPU out of memory" in said.text
    assert "--gpu-memory-utilization" in said.helps[0]


def test_a_wrong_kernel_outweighs_what_could_not_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    rotate = dispatch.dispatch

    def mistaken(*call: Any) -> Any:
        rotated: Any = rotate(*call)
        rotated[0].flatten()[3].mul_(1.01)
        return rotated

    monkeypatch.setattr(dispatch, "dispatch", mistaken)
    both, said = judged(monkeypatch, no_memory)
    assert both.with_it.outcome == sides.WRONG
    assert (said.ok, said.unknown) == (False, False)
    assert "report it" in " ".join(said.helps)


def test_a_class_that_the_kernel_does_not_know_is_judged_by_its_own_code_in_fp64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, said = judged(monkeypatch, right, patched=False, kind=OddRotaryEmbedding)
    assert (both.with_it.outcome, both.without.outcome) == (sides.RIGHT, sides.RIGHT)
    assert "does not know this class" in str(both.with_it.said)
    assert said.ok
    both, said = judged(monkeypatch, wrong, patched=False, kind=OddRotaryEmbedding)
    assert both.now.outcome == sides.WRONG
    assert not said.ok
