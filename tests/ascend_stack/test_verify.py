"""``rope-patch verify`` on a released vllm-ascend, on the host CANN: both sides are judged, and what helps is said.

Run in each environment of ``stack_environment``, on the host CANN; see the README.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ascend_stack.engine import NEWEST
from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.release import since

pytestmark = needs_stack
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
PHI3 = {**HEADS, "model_type": "phi3", "head_dim": 96}
GLM = {**HEADS, "model_type": "glm4_moe", "head_dim": 128, "partial_rotary_factor": 0.5}
DEEPSEEK = {**HEADS, "model_type": "deepseek_v3", "qk_rope_head_dim": 64}
YARN = {"rope_type": "deepseek_yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0}
SCALED = {**DEEPSEEK, "rope_scaling": {**YARN, "mscale_all_dim": 1.0}}
FULL = {
    "hidden_size": 512, "vocab_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "torch_dtype": "bfloat16", "rope_theta": 10000.0,
}  # fmt: skip
KERNEL = "AscendRotaryEmbedding.forward_oot: vllm.npu_rotary_embedding"


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def verified(folder: Path, config: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the verb answers for a model."""
    from rope_patch import cli
    from rope_patch.cli import sides

    monkeypatch.setattr(sides, "TOKENS", (1, 5))
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")  # otherwise the verb would set it for this process's children
    (folder / "config.json").write_text(json.dumps(config))
    options = cli._parser().parse_args(["verify", str(folder), "--dtype", "bfloat16"])
    return options.act(options)


def test_native_code_that_is_wrong_is_named_and_the_kernel_is_right(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's kernel, where a rotary dim is no power of two, until 0.28.0rc1 mended it."""
    answer = verified(tmp_path, PHI3, monkeypatch)
    (result,) = answer.data["results"]
    if not stack.has_triton_path:
        assert result["without"]["outcome"] == "right"
        return
    assert (result["with"]["serves"], result["with"]["outcome"]) == ("kernel", "right")
    assert answer.ok, "what serves is right"
    mended = since("0.28.0rc1")
    assert (result["without"]["serves"], result["without"]["outcome"]) == (KERNEL, "right" if mended else "WRONG")
    if not mended:
        assert "is WRONG without rope_patch; rope_patch serves it rightly" in answer.text


@pytest.mark.parametrize("config", [GLM, DEEPSEEK, SCALED], ids=["GLM-4.5", "DeepSeek", "DeepSeek's own class"])
def test_both_sides_are_right(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
    """vllm-ascend's class for DeepSeek takes heads apart, and gives pairs back in another order."""
    if stack.version != NEWEST:
        pytest.skip("the newest release is asked")
    (result,) = verified(tmp_path, config, monkeypatch).data["results"]
    assert (result["with"]["outcome"], result["without"]["outcome"]) == ("right", "right"), (
        result["with"]["said"],
        result["without"]["said"],
    )
    assert result["serves_now"] == "kernel"
    assert result["without"]["serves"].startswith("AscendDeepseek") == (config is SCALED)


def test_a_fused_operator_is_judged_where_a_model_meets_it(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stack.version != NEWEST:
        pytest.skip("the newest release is asked")
    from rope_patch.cli import vllm_model

    arguments = {"head_size": 128, "rotary_dim": 64, "base": 1e4, "is_neox_style": True, "dtype": None}
    row = {
        "embedding": "RotaryEmbedding", "class": "vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding",
        "arguments": {**arguments, "max_position_embeddings": 128}, "head_size": 128, "rotary_dim": 64, "num_heads": 4,
        "num_kv_heads": 1, "is_neox_style": True, "sections": None, "interleaved": False, "table": [128, 64],
        "norms": {"kind": "RMSNorm", "eps": 1e-5, "gate": False, "attention": "Glm4MoeAttention"}, "layers": 3,
        "first": 0, "model_length": 128,
    }  # fmt: skip
    monkeypatch.setattr(vllm_model, "ask", lambda config, ranks: vllm_model.Described([row], 0, []))
    answer = verified(tmp_path, GLM, monkeypatch)
    plain, fused = answer.data["results"]
    assert (plain["with"]["serves"], plain["without"]["serves"]) == ("kernel", KERNEL)
    assert fused["shape"]["name"] == "glm4_moe, with its norms"
    assert (fused["with"]["serves"], fused["with"]["outcome"]) == ("kernel", "right")
    native = fused["without"]
    assert (native["serves"], native["outcome"]) == ("vllm.qkv_rmsnorm_rope (in graphs)", "right"), native["said"]
    assert answer.ok


def test_the_models_own_code_is_asked_without_a_device(stack: Stack, tmp_path: Path) -> None:
    if stack.version != NEWEST:
        pytest.skip("the newest release is asked")
    from rope_patch.cli import model

    config = {**PHI3, **FULL, "architectures": ["Phi3ForCausalLM"], "hidden_size": 384}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = model.of_model(str(tmp_path), 2)
    assert found.way == "vLLM's own model code"
    (rope,) = found.ropes
    assert (rope.embedding, rope.head_size, rope.rotary_dim, rope.layers) == ("RotaryEmbedding", 96, 96, 3)
    assert (rope.num_heads, rope.num_kv_heads) == (2, 1)
