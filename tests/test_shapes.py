"""What a model's config.json implies for its rotary embedding."""

import json
from pathlib import Path
from typing import Any

import pytest

from rope_patch.cli.answer import Fault
from rope_patch.cli.shapes import LARGEST, of_model

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
# Fields as the models' own configurations have them: head_size, rotary_dim, heads, key heads, NeoX style, scaling.
MODELS = {
    "llama 3.1": (
        {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        (128, 128, 32, 8, True, "llama3"),
    ),
    "qwen3, head_dim of its own": ({**LLAMA, "model_type": "qwen3", "head_dim": 64}, (64, 64, 32, 8, True, "default")),
    "phi-4-mini": (
        {
            "model_type": "phi3",
            "hidden_size": 3072,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {"type": "longrope"},
        },
        (128, 96, 24, 8, True, "longrope"),
    ),
    "gpt-neox": (
        {"model_type": "gpt_neox", "hidden_size": 6144, "num_attention_heads": 64, "rotary_pct": 0.25},
        (96, 24, 64, 64, True, "default"),
    ),
    "gpt-j": (
        {"model_type": "gptj", "n_embd": 4096, "n_head": 16, "rotary_dim": 64},
        (256, 64, 16, 16, False, "default"),
    ),
    "chatglm3": (
        {
            "model_type": "chatglm",
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "multi_query_group_num": 2,
            "kv_channels": 128,
            "seq_length": 32768,
        },
        (128, 64, 32, 2, False, "default"),
    ),
    "glm-4.5, which is not glm4": (
        {**LLAMA, "model_type": "glm4_moe", "head_dim": 128, "partial_rotary_factor": 0.5},
        (128, 64, 32, 8, True, "default"),
    ),
    "deepseek's latent attention": (
        {**LLAMA, "model_type": "deepseek_v3", "qk_rope_head_dim": 64, "rope_scaling": {"type": "yarn"}},
        (64, 64, 32, 1, False, "yarn"),
    ),
    "newer transformers": (
        {**LLAMA, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "partial_rotary_factor": 0.5}},
        (128, 64, 32, 8, True, "yarn"),
    ),
    "the language model of one that sees": (
        {"model_type": "qwen2_vl", "text_config": {**LLAMA, "model_type": "qwen2"}},
        (128, 128, 32, 8, True, "default"),
    ),
}


def write(tmp_path: Path, config: Any) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


@pytest.mark.parametrize(("config", "expected"), MODELS.values(), ids=MODELS)
def test_a_configuration_implies_its_shape(tmp_path: Path, config: Any, expected: Any) -> None:
    (shape,) = of_model(write(tmp_path, config))
    found = (shape.head_size, shape.rotary_dim, shape.num_heads, shape.num_kv_heads, shape.is_neox_style, shape.scaling)
    assert found == expected
    assert of_model(str(tmp_path / "config.json")) == [shape]


def test_theta_and_positions_are_read(tmp_path: Path) -> None:
    (shape,) = of_model(write(tmp_path, {**LLAMA, "rope_theta": 5e5, "max_position_embeddings": 131072}))
    assert (shape.theta, shape.max_position) == (5e5, 131072)


def test_ranks_share_the_heads_and_keep_at_least_one_key_head(tmp_path: Path) -> None:
    (shape,) = of_model(write(tmp_path, LLAMA), tensor_parallel_size=16)
    assert (shape.num_heads, shape.num_kv_heads) == (2, 1)
    with pytest.raises(Fault, match="32 heads cannot be divided among 5"):
        of_model(str(tmp_path), 5)


def test_layers_of_different_kinds_are_different_shapes(tmp_path: Path) -> None:
    kinds = {"full_attention": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}, "sliding": {"rope_theta": 1e4}}
    full, sliding = of_model(write(tmp_path, {**LLAMA, "rope_parameters": kinds}))
    assert (full.rotary_dim, full.theta, full.name) == (64, 1e6, "llama full_attention")
    assert (sliding.rotary_dim, sliding.theta) == (128, 1e4)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "[" * 100_000, "x" * (LARGEST + 1), '{"num_attention_heads": 0, "hidden_size": 8}',
        json.dumps({**LLAMA, "partial_rotary_factor": 0.01}), json.dumps({**LLAMA, "num_attention_heads": "many"}),
    ],
    ids=["empty", "list", "nothing", "deep", "large", "no heads", "no lanes", "words"],
)  # fmt: skip
def test_what_does_not_say_is_a_fault_and_no_crash(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Fault):
        of_model(str(tmp_path))
    with pytest.raises(Fault):
        of_model(str(tmp_path / "nowhere"))


def test_nothing_of_a_model_folder_is_executed(tmp_path: Path) -> None:
    (tmp_path / "configuration_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    auto = {"auto_map": {"AutoConfig": "configuration_evil.Evil"}, "trust_remote_code": True}
    of_model(write(tmp_path, {**LLAMA, **auto}))
    assert not (tmp_path / "ran").exists()
