"""Fields of config.json that say other things of some layers than of others, and those that are not understood.

``test_vllm_model.py`` compares with what vLLM's own model code says.
"""

from typing import Any

import pytest

from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.config_reading import ropes

HEADS = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 4}
LLAMA = {**HEADS, "model_type": "llama"}
FULL, SLIDING = "full_attention", "sliding_attention"
KINDS = [FULL, SLIDING, SLIDING, FULL]
NESTED = {FULL: {"rope_theta": 1e6, "partial_rotary_factor": 0.5}, SLIDING: {"rope_theta": 1e4}}
# A configuration, and what follows for each kind of layer: head size, rotary dim, heads, key heads, NeoX, theta.
MODELS: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]]]] = {
    "Gemma 4: heads of another size, fewer key heads": (
        {
            **HEADS, "model_type": "gemma4_text", "head_dim": 256, "global_head_dim": 512, "num_key_value_heads": 16,
            "num_global_key_value_heads": 4, "attention_k_eq_v": True, "layer_types": KINDS,
            "rope_parameters": {FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
                                SLIDING: {"rope_theta": 1e4}},
        },
        [(512, 512, 32, 4, True, 1e6), (256, 256, 32, 16, True, 1e4)],
    ),
    "Gemma 4, as transformers 5 writes it": (
        {
            **HEADS, "model_type": "gemma4_text", "head_dim": 256, "num_key_value_heads": 16, "layer_types": KINDS,
            "per_layer_config": {"00": {"head_dim": 512, "num_key_value_heads": 4},
                                 "3": {"head_dim": 512, "num_key_value_heads": 4}},
            "rope_parameters": {FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
                                SLIDING: {"rope_theta": 1e4}},
        },
        [(512, 512, 32, 4, True, 1e6), (256, 256, 32, 16, True, 1e4)],
    ),
    "DeepSeek-V3.2: heads of its indexer": (
        {**HEADS, "model_type": "deepseek_v32", "qk_rope_head_dim": 64, "index_head_dim": 128, "index_n_heads": 64},
        [(64, 64, 32, 1, False, 1e4), (64, 64, 64, 1, True, 1e4)],
    ),
    "GLM-5: an indexer that says its style": (
        {**HEADS, "model_type": "glm_moe_dsa", "qk_rope_head_dim": 64, "index_head_dim": 128, "index_n_heads": 16,
         "indexer_rope_interleave": True},
        [(64, 64, 32, 1, False, 1e4), (64, 64, 16, 1, False, 1e4)],
    ),
    "Muse: some layers do not rotate": (
        {**HEADS, "model_type": "muse_glimmer_text", "layer_rope_theta": [5e5, 0, 5e5, 0]},
        [(128, 128, 32, 8, True, 5e5)],
    ),
    "Step-3.5: lists, and other settings of one kind": (
        {
            **HEADS, "model_type": "step3p5", "head_dim": 128, "num_key_value_heads": None, "num_attention_groups": 8,
            "layer_types": KINDS, "rope_theta": [5e6, 1e4, 1e4, 5e6], "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5],
            "attention_other_setting": {"attention_type": SLIDING, "num_attention_heads": 48, "head_dim": 128},
        },
        [(128, 64, 32, 8, True, 5e6), (128, 128, 48, 8, True, 1e4)],
    ),
    "MiMo-V2: fields of its sliding windows": (
        {
            **HEADS, "model_type": "mimo_v2_flash", "head_dim": 192, "partial_rotary_factor": 0.334, "rope_theta": 5e6,
            "swa_num_key_value_heads": 16, "swa_rope_theta": 1e4,
        },
        [(192, 64, 32, 8, True, 5e6), (192, 64, 32, 16, True, 1e4)],
    ),
    "Gemma 3, as it was": (
        {**HEADS, "model_type": "gemma3_text", "head_dim": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4},
        [(256, 256, 32, 8, True, 1e6), (256, 256, 32, 8, True, 1e4)],
    ),
    "heads of each layer": (
        {**LLAMA, "num_attention_heads": [32, 16, 16, 32], "head_dim": 128},
        [(128, 128, 32, 8, True, 1e4), (128, 128, 16, 8, True, 1e4)],
    ),
    "nested parameters": ({**LLAMA, "rope_parameters": NESTED, "layer_types": KINDS},
                          [(128, 64, 32, 8, True, 1e6), (128, 128, 32, 8, True, 1e4)]),
    "Falcon: one key head": (
        {"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "multi_query": True, "alibi": False},
        [(64, 64, 71, 1, True, 1e4)],
    ),
    "MiniCPM3: latent attention, halves make pairs": (
        {**HEADS, "model_type": "minicpm3", "qk_rope_head_dim": 32}, [(32, 32, 32, 1, True, 1e4)],
    ),
    "Cohere2-MoE: neighbours make pairs": (
        {**HEADS, "model_type": "cohere2_moe"}, [(128, 128, 32, 8, False, 1e4)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), MODELS.values(), ids=MODELS)
def test_each_kind_of_layer_has_a_rotary_embedding_of_its_own(config: Any, expected: Any) -> None:
    found = ropes(config, 1)
    assert [
        (one.head_size, one.rotary_dim, one.num_heads, one.num_kv_heads, one.is_neox_style, one.theta) for one in found
    ] == expected
    assert len({one.name for one in found}) == len(found)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dual_chunk_attention_config": {"chunk_size": 8192}}, "dual_chunk_attention_config is {'chunk_size': 8192}"),
        ({"compress_ratios": [1, 4]}, "compress_ratios is [1, 4]"),
        ({"block_configs": [{}]}, "block_configs is [{}]"),
        ({"model_type": "no_such_model"}, "model_type is 'no_such_model'"),
        ({"model_type": "bloom"}, "no rotary embedding: model_type is bloom"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
        ({"alibi": True}, "alibi is True"),
        ({"multi_query": 1}, "multi_query is 1"),
        ({"rope_theta": [1e4, 1e6]}, "rope_theta is [10000.0, 1000000.0]"),
        ({"num_key_value_heads": [8, 4]}, "num_key_value_heads is [8, 4]"),
        ({"model_type": "gemma4_text", "layer_types": KINDS, "rope_parameters": NESTED}, "global_head_dim is missing"),
        ({"attention_other_setting": [1]}, "attention_other_setting is [1]"),
        ({"index_head_dim": 128}, "index_head_dim is 128"),
        ({"qk_rope_head_dim": 64, "index_head_dim": 128}, "index_head_dim is 128"),
        ({"per_layer_config": {"4": {}}}, "per_layer_config is {'4': {}}"),
        ({"per_layer_config": {"a": {}}}, "per_layer_config is {'a': {}}"),
        ({"per_layer_config": {"1": 3}}, "per_layer_config is {'1': 3}"),
        ({"model_type": "mamba", "num_attention_heads": None}, "no rotary embedding: model_type is mamba"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change: Any, named: str) -> None:
    with pytest.raises(CannotAnswer) as refused:
        ropes({**LLAMA, **change}, 1)
    assert named in str(refused.value)
