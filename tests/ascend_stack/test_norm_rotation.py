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
FOLDER = "vllm_ascend.ops.triton.linearnorm"
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
    from rope_patch.patching.targets import TARGETS

    (found,) = (one.module for one in TARGETS if one.name == target)
    return sys.modules.get(found)


def has(stack: Stack, name: str) -> bool:
    """Whether this release has the operator; before 0.16, rope's kernel takes full rotary only."""
    target, *_, rotary_dim, _, _, _ = CASES[name]
    if module_of(target) is None:
        return False
    return target == MROPE or rotary_dim == CASES[name][3] or module_of(MROPE) is not None


def made(stack: Stack, name: str, num_tokens: int, seed: int = 0) -> Any:
    from tests import norm_rotations

    target, heads, kv_heads, head_size, rotary_dim, bias, axes, gate = CASES[name]
    gathered = "rows" if target == MROPE else "" if module_of(MROPE) is not None else "apart"
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


@pytest.mark.parametrize("target", [ROPE, MROPE])
def test_disable_restores_the_identical_kernel_and_the_operator_starts_it(stack: Stack, target: str) -> None:
    import rope_patch
    from rope_patch.patching.stand_in import StandIn
    from rope_patch.reporting import ledger

    module = module_of(target)
    if module is None:
        pytest.skip("this release has no such operator")
    name = "Qwen3" if target == ROPE else "Qwen3-VL"
    kernel_name = f"split_{target}_kernel"
    ours = getattr(module, kernel_name)
    assert isinstance(ours, StandIn)
    schema = str(getattr(stack.torch.ops.vllm, ROPE if target == ROPE else f"triton_split_{MROPE}").default._schema)
    assert rope_patch.status()["targets"][target] == "applied"
    rope_patch.disable()
    try:
        assert getattr(module, kernel_name) is ours._kernel
        ledger.reset()
        started = []

        class Double:
            def __getitem__(self, grid: Any) -> Any:
                return lambda *arguments: started.append((grid, len(arguments)))

        setattr(module, kernel_name, Double())  # upstream's, which the operator looks up: not run here
        try:
            call(stack, name, made(stack, name, 3))
        finally:
            setattr(module, kernel_name, ours._kernel)
        assert len(started) == 1, "the operator no longer looks its kernel up in the module"
        assert not ledger.calls()
    finally:
        rope_patch.enable()
    assert rope_patch.status()["targets"][target] == "applied"
    call(stack, name, made(stack, name, 3))
    assert ledger.calls() == Counter(fused=1)
    found = getattr(stack.torch.ops.vllm, ROPE if target == ROPE else f"triton_split_{MROPE}").default._schema
    assert str(found) == schema


def test_where_upstream_serves_it_is_given_the_same_arguments(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 cosines beside bf16, say, which no kernel of ours takes."""
    from rope_patch.reporting import ledger

    if module_of(ROPE) is None:
        pytest.skip("this release has no such operator")
    started: list[Any] = []

    class Double:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *arguments: started.append((grid, arguments))

    monkeypatch.setattr(getattr(module_of(ROPE), f"split_{ROPE}_kernel"), "_kernel", Double())
    given = made(stack, "Qwen3", 3)
    half = given.angles._replace(cos=given.angles.cos.half())
    ledger.reset()
    given.angles = half
    query, *_ = call(stack, "Qwen3", given)
    ((_, arguments),) = started
    assert any(one is query or getattr(one, "data_ptr", int)() == query.data_ptr() for one in arguments)
    assert ledger.fallbacks() == {"expected cosines and sines of qkv's dtype or float32": 1}
