"""What ``verify`` says of vllm-ascend's operators that split, norm and rotate: where they are met, and both sides.

The operator is a double here; ``tests/ascend_stack/test_verify.py`` asks the real ones.
"""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="verify needs torch")
pytest.importorskip("triton", reason="verify needs triton")

from rope_patch.cli import fused, sides, synthetic, verdict  # noqa: E402
from rope_patch.cli.rope_config import Made, Norms, RopeConfig  # noqa: E402
from rope_patch.cli.sections import Sections  # noqa: E402
from rope_patch.operators import contract, norm_contract  # noqa: E402
from rope_patch.operators.norm_inputs import Angles, Tensors  # noqa: E402
from rope_patch.operators.norm_reference import expected  # noqa: E402
from rope_patch.operators.reference import rows_of  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from tests.rotations import DEVICE  # noqa: E402

NORMS = Norms("RMSNorm", 1e-6, False, "Qwen3Attention")


def rope_of(embedding: str = "RotaryEmbedding", **more: Any) -> RopeConfig:
    made = Made(f"vllm.rotary:{embedding}", {}, None, None)
    return RopeConfig("model", **{"head_size": 128, "rotary_dim": 64, "num_heads": 2, "num_kv_heads": 1,
                                  "max_position": 64, "made": made, "norms": NORMS, **more})  # fmt: skip


SEES = {"embedding": "MRotaryEmbedding", "sections": Sections("interleaved", (4, 2, 2)), "positions": 3}
SEES |= {"head_size": 32, "rotary_dim": 16}
QWEN3_5 = Norms("GemmaRMSNorm", 1e-6, True, "Qwen3NextAttention")
OTHER = Norms("RMSNorm", 1e-6, False, "Glm4vAttention")


@pytest.mark.parametrize(
    ("change", "dtype", "operator"),
    [
        ({}, "bfloat16", fused.IN_GRAPHS),
        ({"rotary_dim": 128}, "bfloat16", fused.IN_GRAPHS),
        ({}, "float16", None),
        ({"head_size": 64}, "bfloat16", None),
        ({"is_neox_style": False}, "bfloat16", None),
        ({"norms": None}, "bfloat16", None),
        ({"norms": NORMS._replace(kind="GemmaRMSNorm")}, "bfloat16", None),
        ({"norms": NORMS._replace(eps=1e-4)}, "bfloat16", None),
        ({"embedding": "Llama3RotaryEmbedding"}, "bfloat16", None),
        (SEES, "bfloat16", fused.BY_ATTENTION),
        (SEES, "float16", fused.BY_ATTENTION),
        ({**SEES, "norms": QWEN3_5}, "bfloat16", fused.BY_ATTENTION),
        ({**SEES, "norms": OTHER}, "bfloat16", None),
    ],
)
def test_where_a_model_meets_one(monkeypatch: pytest.MonkeyPatch, change: Any, dtype: str, operator: Any) -> None:
    monkeypatch.setattr(fused, "_found", lambda *found: found)
    met: Any = fused.met(rope_of(**change), dtype)
    assert (met and met[0]) == operator


def test_without_the_operators_nothing_is_met() -> None:
    assert fused.met(rope_of(), "bfloat16") is None


class Operator:
    """Native code, or rope_patch's kernel where it is on. ``native`` changes what native code gives."""

    def __init__(self, rope: RopeConfig, native: Any, left: str | None) -> None:
        self.rope, self.native, self.left, self.on = rope, native, left, True

    def __call__(self, **given: Any) -> Any:
        rope, qkv = self.rope, given.get("input", given.get("qkv"))
        asked = fused.NormRotation(rope.head_size, rope.rotary_dim, rope.num_heads, rope.num_kv_heads, given["eps"])
        if "positions" in given:
            angles = Angles(given["cos_sin_cache"], None, given["positions"])
        else:
            asked, angles = asked._replace(axes=synthetic.axes_of(rope)), Angles(given["cos_sin"], None, None)
        widths = [number * rope.head_size for number in (rope.num_heads, *[rope.num_kv_heads] * 2, rope.num_heads)]
        results = [qkv.new_empty(len(qkv), width) for width in widths]
        last = results.pop()
        gate = last if given.get("has_gate") else None
        tensors = Tensors(qkv, *results, gate, given["q_weight"], given["k_weight"], None, None)
        if self.on and self.left:
            contract.hand_back(self.left)
        if self.on and not self.left:
            assert norm_contract.serve(tensors, angles, asked)
        else:
            computed(tensors, angles, asked)
            self.native(*results)
        return *results, qkv.new_empty(0) if gate is None else gate


def computed(tensors: Tensors, angles: Angles, asked: Any) -> None:
    """Write what is right."""
    gates, (cos, _, positions) = tensors.gate is not None, angles
    heads = asked.num_heads * (1 + gates), asked.num_kv_heads, asked.num_kv_heads
    q, k, v = tensors.qkv.cpu().unflatten(1, (-1, asked.head_size)).split(heads, 1)
    if positions is None:
        at = torch.arange(3 * len(q)).view(3, -1)
        rows = rows_of(at, cos.cpu().flatten(0, 1), asked.axes)
    else:
        rows = cos[positions].cpu()
    for result, part, weight in (
        (tensors.query, q[:, :: 1 + gates], tensors.q_weight),
        (tensors.key, k, tensors.k_weight),
    ):
        result.copy_(expected(part, weight.cpu(), None, asked.eps, rows)[0].flatten(1))
    tensors.value.copy_(v.flatten(1))
    if tensors.gate is not None:
        tensors.gate.copy_(q[:, 1::2].flatten(1))


def served(*call: Any) -> bool:
    """As the kernel: the interpreter takes seconds for its first-use check, so one test runs the real one."""
    computed(*call)
    ledger.page().served["fused"][0] += 1
    return True


def right(*results: Any) -> None:
    pass


def wrong(*results: Any) -> None:
    results[1][0, 5] += 1


def moved(*results: Any) -> None:
    """Wrong in v, which is not computed, by one unit in the last place."""
    results[2][0, 0] *= 1 + 2**-7


def unsteady(*results: Any) -> None:
    results[0][-1, -1] *= 1 + 2**-7 * torch.randint(0, 2, ()).item()


def no_memory(*results: Any) -> None:
    raise torch.OutOfMemoryError("NPU out of memory")


def judged(
    monkeypatch: pytest.MonkeyPatch, native: Any, left: str | None = None, real: bool = False, **change: Any
) -> tuple[sides.Both, verdict.Verdict]:
    if not real:
        monkeypatch.setattr(norm_contract, "serve", served)
    rope = rope_of(**change)
    operator = Operator(rope, native, left)
    double = SimpleNamespace(
        disable=lambda: setattr(operator, "on", False), enable=lambda: setattr(operator, "on", True)
    )
    monkeypatch.setattr(fused, "rope_patch", double)
    monkeypatch.setattr(fused, "_found", lambda name, asked, gate: fused.Fused(name, operator, asked, gate))
    monkeypatch.setattr(sides, "TOKENS", (1, 5))
    table = synthetic.unscaled_table(rope, 64).to(DEVICE, torch.bfloat16)
    worker: Any = SimpleNamespace(
        build=lambda rope, dtype: SimpleNamespace(module=SimpleNamespace(cos_sin_cache=table))
    )
    met = fused.met(rope, "bfloat16")
    assert met is not None
    both = fused.of(met, rope, "bfloat16", worker)
    return both, verdict.of([both])


@pytest.mark.parametrize("change", [{}, SEES, {**SEES, "norms": QWEN3_5}], ids=["in graphs", "Qwen3-VL", "Qwen3.5"])
def test_both_are_right(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    both, said = judged(monkeypatch, right, real=not change, **change)
    assert (both.with_it.serves, both.with_it.outcome) == ("kernel", sides.RIGHT), both
    assert both.without.outcome == sides.RIGHT, both
    assert both.without.serves.startswith("vllm.triton_split" if change else "vllm.qkv_rmsnorm_rope (in graphs)")
    assert both.rope.name == "model, with its norms"
    assert said.ok


@pytest.mark.parametrize("native", [wrong, moved])
def test_native_code_that_is_wrong_is_no_fault_while_the_kernel_serves(
    monkeypatch: pytest.MonkeyPatch, native: Any
) -> None:
    both, said = judged(monkeypatch, native)
    assert (both.without.outcome, both.without.found.wrong) == (sides.WRONG, 3)
    assert said.ok
    assert "rope_patch serves it rightly" in said.helps[0]


def test_native_code_that_differs_from_run_to_run_and_serves_is_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    both, said = judged(monkeypatch, unsteady, left="left native by name")
    assert both.now.outcome == sides.UNSTEADY
    assert (both.kernel.serves, both.kernel.outcome) == ("kernel, called directly", sides.RIGHT), both.kernel
    assert not said.ok
    assert "serves now (left native by name); the kernel is right" in said.helps[0]


def test_what_could_not_be_called_is_exit_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    both, said = judged(monkeypatch, no_memory, left="left native by name")
    assert both.without.outcome == sides.NOT_KNOWN
    assert (said.ok, said.unknown) == (False, True)
