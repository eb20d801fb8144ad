"""The second way to a model's rotary embeddings: what the fields of its config.json describe.

No configuration here names architectures, so vLLM is not asked; ``test_vllm_model.py`` does that.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rope_patch.cli import main, verify
from rope_patch.cli.answer import CannotAnswer, short
from rope_patch.cli.config_json import LARGEST
from rope_patch.cli.model import of_model as selected_of_model
from rope_patch.cli.model import selected
from rope_patch.cli.rope_config import BUILT_IN, RopeConfig

PART = "partial_rotary_factor"
SECTIONS = {"mrope_section": [16, 24, 24]}
LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
# Fields as in the models' own configurations, and what follows: head_size, rotary_dim, heads, key heads, NeoX, scaling.
MODELS = {
    "llama 3.1": (
        {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        (128, 128, 32, 8, True, "llama3"),
    ),
    "qwen3, with a head_dim": ({**LLAMA, "model_type": "qwen3", "head_dim": 64}, (64, 64, 32, 8, True, "default")),
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
    "the language model of a multimodal model": (
        {"model_type": "qwen2_vl", "text_config": {**LLAMA, "model_type": "qwen2"}},
        (128, 128, 32, 8, True, "default"),
    ),
}


def of_model(place: str, ranks: int = 1) -> list[RopeConfig]:
    found = selected_of_model(place, ranks)
    assert "config.json names no architectures" in found.way
    return found.ropes


def write(tmp_path: Path, config: Any) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def text_config(kind: str, rope: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model_type": kind, "text_config": {**LLAMA, "model_type": f"{kind}_text", "rope_parameters": rope, **more}}


QWEN_VL = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
INTERLEAVED = {"rope_type": "default", "mrope_interleaved": True}
GLM = {"rope_type": "default", "mrope_section": [8, 12, 12]}
# Multimodal models' own configurations, and what follows: head_size, rotary_dim, NeoX, sections of time, height, width.
MULTIMODAL = {
    "Qwen2.5-VL, flat": ({**LLAMA, "model_type": "qwen2_5_vl", **QWEN_VL}, (128, 128, True, "chunked 16 24 24")),
    "Qwen2.5-Omni": (
        {"model_type": "qwen2_5_omni", "thinker_config": {"text_config": {**LLAMA, **QWEN_VL}}},
        (128, 128, True, "chunked 16 24 24"),
    ),
    "Qwen3-VL": (
        text_config("qwen3_vl", {**INTERLEAVED, "mrope_section": [24, 20, 20], "rope_theta": 5e6}),
        (128, 128, True, "interleaved 24 20 20"),
    ),
    "Qwen3.5": (
        text_config("qwen3_5", {**INTERLEAVED, "mrope_section": [11, 11, 10], PART: 0.25}, head_dim=256),
        (256, 64, True, "interleaved 11 11 10"),
    ),
    "GLM-4.1V": (text_config("glm4v", {**GLM, PART: 0.5}), (128, 64, False, "chunked 8 12 12")),
    "GLM-4.1V, older": (
        {**LLAMA, "model_type": "glm4v", PART: 0.5, "rope_scaling": {"type": "default", "mrope_section": [8, 12, 12]}},
        (128, 64, False, "chunked 8 12 12"),
    ),
    "GLM-4.5V": (text_config("glm4v_moe", GLM), (128, 64, True, "chunked 8 12 12")),
    "GLM-OCR": (
        text_config("glm_ocr", {**GLM, "mrope_section": [16, 24, 24], PART: 1.0}),
        (128, 128, False, "chunked 16 24 24"),
    ),
    "ERNIE-4.5-VL": (
        {**LLAMA, "model_type": "ernie4_5_moe_vl", "freq_allocation": 20},
        (128, 128, False, "alternating 20 22 22"),
    ),
    "ERNIE-4.5-VL, newer": (
        text_config("ernie4_5_vl_moe", {"rope_type": "default", "mrope_section": [22, 22, 20]}),
        (128, 128, False, "alternating 20 22 22"),
    ),
    "PaddleOCR-VL": (
        {
            **LLAMA,
            "model_type": "paddleocr_vl",
            "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
        },
        (128, 128, True, "chunked 16 24 24"),
    ),
    "text only": (text_config("qwen3_vl", {"rope_type": "default"}), (128, 128, True, "None")),
}


@pytest.mark.parametrize(("config", "expected"), MULTIMODAL.values(), ids=MULTIMODAL)
def test_a_multimodal_configuration_is_read(tmp_path: Path, config: Any, expected: Any) -> None:
    (rope,) = of_model(write(tmp_path, config))
    assert (rope.head_size, rope.rotary_dim, rope.is_neox_style, str(rope.sections)) == expected


@pytest.mark.parametrize(("config", "expected"), MODELS.values(), ids=MODELS)
def test_a_configuration_is_read(tmp_path: Path, config: Any, expected: Any) -> None:
    (rope,) = of_model(write(tmp_path, config))
    found = (rope.head_size, rope.rotary_dim, rope.num_heads, rope.num_kv_heads, rope.is_neox_style, rope.scaling)
    assert found == expected
    assert of_model(str(tmp_path / "config.json")) == [rope]


def test_theta_and_positions_are_read(tmp_path: Path) -> None:
    (rope,) = of_model(write(tmp_path, {**LLAMA, "rope_theta": 5e5, "max_position_embeddings": 131072}))
    assert (rope.theta, rope.max_position) == (5e5, 131072)


def test_ranks_share_the_heads_and_keep_at_least_one_key_head(tmp_path: Path) -> None:
    (rope,) = of_model(write(tmp_path, LLAMA), 16)
    assert (rope.num_heads, rope.num_kv_heads) == (2, 1)
    with pytest.raises(CannotAnswer, match="32 heads cannot be divided among 5"):
        of_model(str(tmp_path), 5)


def test_layers_of_different_kinds_have_a_rope_config_each(tmp_path: Path) -> None:
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
def test_a_configuration_that_does_not_describe_one_raises_cannot_answer(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CannotAnswer):
        of_model(str(tmp_path))
    with pytest.raises(CannotAnswer):
        of_model(str(tmp_path / "nowhere"))


def test_nothing_of_a_model_folder_is_executed(tmp_path: Path) -> None:
    (tmp_path / "configuration_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    auto = {"auto_map": {"AutoConfig": "configuration_evil.Evil"}, "trust_remote_code": True}
    of_model(write(tmp_path, {**LLAMA, **auto}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"type": "xdrope", "xdrope_section": [16, 16, 16, 16]}, "xdrope_section is [16, 16, 16, 16]"),
        ({"rope_type": "openpangu", "mrope_interleaved": True, **SECTIONS}, "rope_type is 'openpangu'"),
    ],
)
def test_an_order_of_sections_that_no_kernel_knows_is_exit_status_2(
    tmp_path: Path, capsys: Any, rope: Any, named: str
) -> None:
    assert main(["verify", write(tmp_path, {**LLAMA, "rope_scaling": rope})]) == 2
    said = capsys.readouterr().err.strip()
    assert named in said
    assert said.endswith("the kernel does not know that order of sections, vLLM's own code serves it")


LATENT = {**LLAMA, "qk_rope_head_dim": 64}
ERNIE = {"model_type": "ernie4_5_moe_vl"}
THREE = "3 whole numbers from 0 whose"
# A change of a configuration, the field and value that the sentence names, and what it expects.
BAD = [
    ({"num_attention_heads": None}, "num_attention_heads or n_head is missing", "a whole number from 1"),
    ({"num_attention_heads": -32}, "num_attention_heads is -32", "a whole number from 1"),
    ({"num_attention_heads": True}, "num_attention_heads is True", "a whole number"),
    ({"num_attention_heads": 10**400}, "num_attention_heads is 10000", "a whole number"),
    ({"num_attention_heads": float("inf")}, "num_attention_heads is inf", "a whole number"),
    ({"num_key_value_heads": -8}, "num_key_value_heads is -8", "a whole number from 1"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0", "a whole number from 1"),
    ({"num_key_value_heads": [8, 4]}, "num_key_value_heads is [8, 4]", "a whole number"),
    ({"hidden_size": None}, "hidden_size or n_embd is missing", "a whole number"),
    ({"hidden_size": "4096"}, "hidden_size is '4096'", "a whole number"),
    ({"head_dim": -128}, "head_dim is -128", "a whole number from 2"),
    ({"head_dim": 0}, "head_dim is 0", "a whole number from 2"),
    ({"head_dim": 2**40}, "head_dim is 1099511627776", "a whole number"),
    ({"head_dim": 75}, "partial_rotary_factor", "a part of 75 lanes"),
    ({"rotary_dim": 256}, "rotary_dim is 256", "an even number from 2 to 128"),
    ({"rotary_dim": 63}, "rotary_dim is 63", "an even number"),
    ({"rotary_dim": -64}, "rotary_dim is -64", "an even number"),
    ({"rotary_dim": 0}, "rotary_dim is 0", "an even number"),
    ({"partial_rotary_factor": 2.0}, "partial_rotary_factor is 2.0", "a number from 0 to 1"),
    ({"partial_rotary_factor": -0.5}, "partial_rotary_factor is -0.5", "a number from 0 to 1"),
    ({"rotary_pct": float("nan")}, "rotary_pct is nan", "a number from 0 to 1"),
    ({"partial_rotary_factor": 0.01}, "partial_rotary_factor is 0.01", "an even number from 2, and not 1"),
    ({"model_type": "chatglm", "kv_channels": 2}, "partial_rotary_factor", "a part of 2 lanes"),
    ({"qk_rope_head_dim": 63}, "qk_rope_head_dim is 63", "an even number"),
    ({"qk_rope_head_dim": -64}, "qk_rope_head_dim is -64", "an even number"),
    ({"qk_rope_head_dim": "64"}, "qk_rope_head_dim is '64'", "an even number"),
    ({"max_position_embeddings": 0}, "max_position_embeddings is 0", "a whole number from 1"),
    ({"max_position_embeddings": -1}, "max_position_embeddings is -1", "a whole number from 1"),
    ({"max_position_embeddings": 1e30}, "max_position_embeddings is 1e+30", "a whole number"),
    ({"rope_theta": 0}, "rope_theta is 0", "a number from 1"),
    ({"rope_theta": -1e4}, "rope_theta is -10000.0", "a number from 1"),
    ({"rope_theta": float("nan")}, "rope_theta is nan", "a number from 1"),
    ({"rope_theta": float("inf")}, "rope_theta is inf", "a number from 1"),
    ({"rope_theta": 10**400}, "rope_theta is 1000000", "a number from 1"),
    ({"rope_theta": {"a": 1}}, "rope_theta is {'a': 1}", "a number from 1"),
    ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'", "a JSON object"),
    ({"rope_scaling": ["yarn", 4]}, "rope_scaling is ['yarn', 4]", "a JSON object"),
    ({"rope_parameters": 4.0}, "rope_parameters is 4.0", "a JSON object"),
    ({"rope_scaling": {"type": "no such one"}}, "type is 'no such one'", "one of bailing_mrope, deepseek"),
    ({"rope_scaling": {"rope_type": ["yarn"]}}, "rope_type is ['yarn']", "a name"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, "factor is '4'", "a number from 0"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 1e300}}, "factor is 1e+300", "a number from 0"),
    ({"rope_scaling": {"original_max_position_embeddings": -1}}, "original_max_position_embeddings is -1", "a whole"),
    ({"rope_parameters": {"full": {"rope_theta": 0}, "local": {}}}, "rope_theta is 0", "a number from 1"),
    ({"model_type": ["llama"]}, "model_type is ['llama']", "a name"),
    ({"model_type": "x" * 5000}, "model_type is 'xxxx", "a name"),
    ({"text_config": [1]}, "text_config is [1]", "a JSON object"),
    ({"text_config": "llama"}, "text_config is 'llama'", "a JSON object"),
    ({"llm_config": 1}, "llm_config is 1", "a JSON object"),
    ({"thinker_config": []}, "thinker_config is []", "a JSON object"),
    *(
        ({"rope_scaling": {"mrope_section": section}}, f"mrope_section is {short(section)}", f"{THREE} sum is 64")
        for section in ([16, 24, 20], [-8, 36, 36], [16.0, 24, 24], [True, 31, 32], [64], [16, 16, 16, 16], "16")
    ),
    (
        {PART: 0.5, "rope_scaling": {"mrope_section": [16, 24, 24]}},
        "mrope_section is [16, 24, 24]",
        f"{THREE} sum is 32",
    ),
    ({"rope_scaling": {**SECTIONS, "mrope_interleaved": 1}}, "mrope_interleaved is 1", "true or false"),
    ({**ERNIE, "rope_scaling": {"mrope_section": [20, 22, 22]}}, "mrope_section is [20, 22, 22]", "as many pairs of"),
    ({**ERNIE, "freq_allocation": "20"}, "freq_allocation is '20'", "a whole number from 0 to 64"),
    ({**ERNIE, "freq_allocation": 21}, "mrope_section is [21, 21, 21]", f"{THREE} sum is 64"),
]


def is_one_sentence(said: str) -> bool:
    return "\n" not in said and len(said) < 400


@pytest.mark.parametrize(("change", "named", "expected"), BAD, ids=lambda value: None)
def test_a_bad_field_is_exit_status_2_and_is_named_with_its_value(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, change: Any, named: str, expected: str
) -> None:
    monkeypatch.setattr(verify, "choose_device", lambda: pytest.fail("it went on"))
    assert main(["verify", write(tmp_path, {**LLAMA, **change})]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("rope-patch: ")
    assert named in said
    assert f"expected {expected}" in said or expected in said.split("expected ")[1]
    assert is_one_sentence(said)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-tp", "0"], "--tensor-parallel-size is 0"),
        (["-tp=-1"], "--tensor-parallel-size is -1"),
        (["-tp", "1" * 300], "--tensor-parallel-size is 111"),
        (["-tp", "3"], "--tensor-parallel-size is 3: 32 heads cannot be divided"),
    ],
)
@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_an_impossible_number_of_ranks_is_named(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, verb: str, arguments: list[str], named: str
) -> None:
    monkeypatch.setattr(verify, "choose_device", lambda: pytest.fail("it went on"))
    assert main([verb, write(tmp_path, LLAMA), *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert named in said
    assert is_one_sentence(said)


def test_key_heads_must_be_shared_evenly_and_ranks_need_a_model(tmp_path: Path) -> None:
    with pytest.raises(CannotAnswer, match="6 key heads cannot be shared by 4 ranks"):
        of_model(write(tmp_path, {**LLAMA, "num_key_value_heads": 6}), 4)
    with pytest.raises(CannotAnswer, match="--tensor-parallel-size is 2, expected 1 without a MODEL"):
        selected(None, 2)
    assert selected(None, 1).ropes == list(BUILT_IN)


@pytest.mark.parametrize("place", ["", "x" * 5000, "/" + "x/" * 2500, "/dev/null", "/proc/self/mem"])
@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_a_place_without_a_model_gives_one_sentence(capsys: Any, verb: str, place: str) -> None:
    assert main([verb, place]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("rope-patch: ")
    assert is_one_sentence(said)


FIELDS = (
    *("model_type", "num_attention_heads", "n_head", "num_key_value_heads", "hidden_size", "n_embd", "head_dim"),
    *("qk_rope_head_dim", "max_position_embeddings", "rotary_dim", "rope_theta", "partial_rotary_factor", "rotary_pct"),
    *("mrope_section", "mrope_interleaved", "freq_allocation"),
    *("rope_parameters", "rope_scaling", "text_config", "rope_type", "type", "factor", "full_attention"),
)
PLAIN = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.integers(-2, 130), st.floats(), st.floats(0, 1), st.text(max_size=3)),
    st.sampled_from(["llama", "chatglm", "gptj", "yarn", "default", 10**400, 2**63, -(10**30)]),
    st.sampled_from(["ernie4_5_moe_vl", "glm4v", "openpangu", [16, 24, 24], [32, 32], [-1, 1, 64]]),
)
JUNK = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([{}, LLAMA, LATENT]), st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=4))
def test_any_configuration_gives_possible_rope_configs_or_one_sentence(tmp_path: Path, base: Any, change: Any) -> None:
    ropes, said = [], ""
    try:
        ropes = of_model(write(tmp_path, {**base, **change}))
    except CannotAnswer as error:
        said = str(error)
    assert is_one_sentence(said)
    assert bool(said) != bool(ropes)
    for rope in ropes:
        assert 2 <= rope.rotary_dim <= rope.head_size <= 1024
        assert rope.rotary_dim % 2 == 0
        assert min(rope.num_heads, rope.num_kv_heads, rope.max_position) >= 1
        assert 1 <= rope.theta < float("inf")
        assert rope.sections is None or sum(rope.sections.pairs) == rope.rotary_dim // 2
