"""vllm-ascend's operators that split, norm and rotate: called as its graphs and its models call them, ours serves.

Run in each environment of ``stack_environment``, on the host CANN; see the README. How often the fusion passes match is
in ``test_graphs.py`` and ``test_mrope_fusion.py``.
"""

import sys
from collections import Counter
from typing import Any

import pytest

from tests.ascend_stack.harness import Stack, needs_stack, start

pytestmark = needs_stack
ROPE, MROPE = "qkv_rmsnorm_rope", "qkv_rmsnorm_mrope"
# name: the target, q and k heads, head_size, rotary_dim, biases, and for three positions a token axes and gates
CASES: dict[str, tuple[str, int, int, int, int, bool, str, bool]] = {
    "Qwen3": (ROPE, 8, 2, 128, 128, False, "", False),
    "GLM-4.5": (ROPE, 12, 1, 128, 64, True, "", False),
    "Qwen3-VL": (MROPE, 8, 2, 128, 128, False, "thw" * 20 + "t" * 4, False),
    "Qwen3.5": (MROPE, 4, 1, 256, 64, False, "thw" * 10 + "th", True),
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def module_of(target: str) -> Any:
    return sys.modules.get(f"vllm_ascend.ops.triton.linearnorm.split_{target}")


def has(stack: Stack, name: str) -> bool:
    """Whether this release has the operator; before 0.16, rope's kernel takes full rotary only."""
    target, _, _, head_size, rotary_dim, *_ = CASES[name]
    return target in stack.fused and (rotary_dim == head_size or MROPE in stack.fused)


def made(stack: Stack, name: str, num_tokens: int, seed: int = 0) -> Any:
    from tests import norm_rotations

    target, heads, kv_heads, head_size, rotary_dim, bias, axes, gate = CASES[name]
    gathered = "rows" if target == MROPE else "" if MROPE in stack.fused else "apart"
    return norm_rotations.case(
        num_tokens, heads, kv_heads, head_size, rotary_dim,
        bias=bias, axes=axes, gate=gate, gathered=gathered, seed=seed,
    )  # fmt: skip


def call(stack: Stack, name: str, given: Any) -> tuple[Any, ...]:
    """The operator's results, called with the names that the fusion pass and the models use."""
    tensors, (cos, sin, positions), asked = given.tensors, given.angles, given.asked
    of_both = {"q_weight": tensors.q_weight, "k_weight": tensors.k_weight, "eps": asked.eps}
    of_both |= {"q_bias": tensors.q_bias, "k_bias": tensors.k_bias}
    operators = stack.torch.ops.vllm
    if CASES[name][0] == MROPE:
        section = [asked.axes.count(axis) for axis in "thw"]
        return operators.triton_split_qkv_rmsnorm_mrope(
            qkv=tensors.qkv, cos_sin=cos, num_q_heads=asked.num_heads, num_kv_heads=asked.num_kv_heads,
            head_size=asked.head_size, mrope_section=section, is_interleaved=True, rope_dim=asked.rotary_dim,
            has_gate=tensors.gate is not None, **of_both,
        )  # fmt: skip
    angles = {"sin": sin, "cos": cos} if positions is None else {"cos_sin_cache": cos, "positions": positions}
    q, kv = (number * asked.head_size for number in (asked.num_heads, asked.num_kv_heads))
    return operators.qkv_rmsnorm_rope(
        input=tensors.qkv, q_hidden_size=q, kv_hidden_size=kv, head_dim=asked.head_size, **angles, **of_both
    )


@pytest.fixture(params=CASES)
def name(stack: Stack, request: pytest.FixtureRequest) -> str:
    if not has(stack, request.param):
        pytest.skip("this release has no such operator")
    return str(request.param)


def test_the_operators_call_is_served_and_right(stack: Stack, name: str) -> None:
    from rope_patch.reporting import ledger
    from tests.norm_rotations import assert_right

    ledger.reset()
    sizes = (1, 2, 97)
    for num_tokens in sizes:
        given = made(stack, name, num_tokens)
        assert_right(given, call(stack, name, given))
    assert (ledger.calls(), ledger.fallbacks()) == (Counter(fused=len(sizes)), Counter())


def test_a_replay_of_a_captured_call_gives_what_eager_mode_gives(stack: Stack, name: str) -> None:
    from rope_patch.reporting import ledger

    torch, static = stack.torch, made(stack, name, 5)
    call(stack, name, static)  # as vLLM's warm-up does, before it captures
    torch.npu.synchronize()
    ledger.reset()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        replayed = call(stack, name, static)
    assert (ledger.calls(), ledger.fallbacks()) == (Counter(fused=1), Counter())
    other = made(stack, name, 5, seed=1)
    for place, value in zip((*static.tensors, *static.angles), (*other.tensors, *other.angles), strict=True):
        if place is not None:
            place.copy_(value)
    graph.replay()
    torch.npu.synchronize()
    for one, eager in zip(replayed, call(stack, name, other), strict=True):
        assert torch.equal(one.cpu(), eager.cpu())


class Double:
    """Stands for upstream's kernel; notes how it was started."""

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments: self.started.append(arguments)


def operator(stack: Stack, target: str) -> Any:
    return getattr(stack.torch.ops.vllm, target if target == ROPE else f"triton_split_{target}").default


def test_disable_restores_the_identical_kernels_which_the_operators_start(stack: Stack) -> None:
    import rope_patch
    from rope_patch.reporting import ledger

    models = {ROPE: "Qwen3", MROPE: "Qwen3-VL"}
    ours = stack.fused
    if not ours:
        pytest.skip("this release has no such operator")
    schemas = {target: str(operator(stack, target)._schema) for target in ours}
    ledger.reset()
    rope_patch.disable()
    try:
        for target, stand_in in ours.items():
            assert stack.fused[target] is stand_in._kernel
            double, module = Double(), module_of(target)
            setattr(module, f"split_{target}_kernel", double)  # looked up by the operator; the original is not run here
            try:
                call(stack, models[target], made(stack, models[target], 3))
            finally:
                setattr(module, f"split_{target}_kernel", stand_in._kernel)
            assert len(double.started) == 1, "the operator no longer looks its kernel up in the module"
        assert not ledger.calls()
    finally:
        rope_patch.enable()
    for target in ours:
        assert rope_patch.status()["targets"][target] == "applied"
        call(stack, models[target], made(stack, models[target], 3))
        assert str(operator(stack, target)._schema) == schemas[target]
    assert ledger.calls() == Counter(fused=len(ours))


def test_where_upstream_serves_it_is_given_the_same_arguments(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 cosines beside bf16, say, which no kernel of ours takes."""
    from rope_patch.reporting import ledger

    if ROPE not in stack.fused:
        pytest.skip("this release has no such operator")
    double = Double()
    monkeypatch.setattr(stack.fused[ROPE], "_kernel", double)
    given = made(stack, "Qwen3", 3)
    given.angles = given.angles._replace(cos=given.angles.cos.half())
    ledger.reset()
    query, *_ = call(stack, "Qwen3", given)
    (arguments,) = double.started
    assert query.data_ptr() in [one.data_ptr() for one in arguments if isinstance(one, stack.torch.Tensor)]
    assert ledger.fallbacks() == {"expected cosines and sines of qkv's dtype or float32": 1}
