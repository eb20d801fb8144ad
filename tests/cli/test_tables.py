"""A module's table against its definition: right, and two differences that are known. With vLLM's own classes too."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="compares tensors")
pytest.importorskip("transformers", reason="has the definitions")

from rope_patch.cli import table_definitions, tables  # noqa: E402
from rope_patch.cli.rope_config import Made, RopeConfig  # noqa: E402
from rope_patch.cli.table_kinds import Part, parts  # noqa: E402
from tests.conftest import ROOT, clean_environment  # noqa: E402
from tests.host_cann.forks import Forks  # noqa: E402

YARN = {"max_position_embeddings": 4096, "scaling_factor": 4.0, "beta_fast": 32, "beta_slow": 1}
SAME = {"factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT, LONG = [1.0 + pair / 64 for pair in range(64)], [4.0 + pair / 8 for pair in range(64)]
FACTORS = {"short_factor": SHORT, "long_factor": LONG}
# vLLM's class, its arguments, and transformers' kind and parameters (for LongRoPE those of its second table).
CLASSES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "default": ("RotaryEmbedding", {}, "default", {}),
    "sections": ("MRotaryEmbedding", {}, "default", {}),
    "linear": ("LinearScalingRotaryEmbedding", {"max_position_embeddings": 4096, "scaling_factors": 4.0}, "linear",
               {"factor": 4.0}),
    "llama3": ("Llama3RotaryEmbedding", {"scaling_factor": 8.0, "orig_max_position": 8192, **LLAMA3}, "llama3",
               {"factor": 8.0, "original_max_position_embeddings": 8192, **LLAMA3}),
    "yarn": ("YaRNScalingRotaryEmbedding", YARN, "yarn", SAME),
    "yarn, its factor given": ("YaRNScalingRotaryEmbedding", {**YARN, "attn_factor": 1.5}, "yarn",
                               {**SAME, "attention_factor": 1.5 * 1.1386294361119891}),
    "sections and yarn": ("MRotaryEmbedding", YARN, "yarn", SAME),
    "DeepSeek": ("DeepseekScalingRotaryEmbedding", {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, "yarn",
                 {**SAME, "mscale": 1.0, "mscale_all_dim": 0.5}),
    "dynamic": ("DynamicNTKScalingRotaryEmbedding", {"max_trained_positions": 4096, "scaling_factor": 2.0}, "dynamic",
                {"factor": 2.0, "original_max_position_embeddings": 4096}),
    "Hunyuan": ("DynamicNTKAlphaRotaryEmbedding", {"scaling_alpha": 1000.0}, "alpha", {"alpha": 1000.0}),
    "ntk": ("NTKScalingRotaryEmbedding", {"scaling_factor": 4.0}, "ntk", {"factor": 4.0, "mixed_b": None}),
    "ntk, mixed": ("NTKScalingRotaryEmbedding", {"scaling_factor": 4.0, "mixed_b": 0.6}, "ntk",
                   {"factor": 4.0, "mixed_b": 0.6}),
    "Gemma 4": ("Gemma4RotaryEmbedding", {"rotary_dim": 32}, "proportional", {"partial_rotary_factor": 0.25}),
    "LongRoPE": ("Phi3LongRoPEScaledRotaryEmbedding", {"original_max_position_embeddings": 4096, **FACTORS}, "longrope",
                 {"factor": 4.0, "original_max_position_embeddings": 4096, **FACTORS}),
}  # fmt: skip
ARGUMENTS = {"head_size": 128, "rotary_dim": 128, "base": 5e5, "is_neox_style": True, "max_position_embeddings": 16384}


def rope_of(arguments: dict[str, Any]) -> RopeConfig:
    made = Made("vllm:Any", {**ARGUMENTS, **arguments}, None, None)
    return RopeConfig("any", 128, 128, 4, 2, theta=5e5, parameters=arguments, made=made)


def table_of(rope: RopeConfig, kind: str, parameters: Any, length: int | None = None, rows: int = 16384) -> Any:
    """A table that is made in fp32, as vLLM makes it, from the definition's frequencies."""
    defined = table_definitions.defined(Part(torch.zeros(0), kind, parameters, length), rope)
    assert defined is not None
    angles = torch.arange(rows, dtype=torch.float32)[:, None] * defined[0].float()
    return torch.cat((angles.cos(), angles.sin()), -1) * defined[1]


def module_of(name: str, table: Any, dtype: Any = torch.float32) -> Any:
    """An instance of a double of vLLM's class, through a subclass as vllm-ascend has one."""
    cls = type(name, (), {"__module__": "vllm.double", "_compute_cos_sin_cache": None})
    module: Any = type(f"Ascend{name}", (cls,), {"__module__": "vllm_ascend.double"})()
    module.cos_sin_cache = module.long_short_cos_sin_cache = table.to(dtype)
    return module


def made(case: str, dtype: Any = torch.float32) -> tuple[RopeConfig, Any]:
    name, arguments, kind, parameters = CLASSES[case]
    rope = rope_of(arguments)
    if case == "LongRoPE":
        short = table_of(rope, kind, parameters, 4096, 4096)
        return rope, module_of(name, torch.cat((short, table_of(rope, kind, parameters, 4097))), dtype)
    return rope, module_of(name, table_of(rope, kind, parameters, 16384 if kind == "dynamic" else None), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CLASSES)
def test_a_table_that_is_as_defined_is_right_within_its_dtype(case: str, dtype: Any) -> None:
    found = tables.judged(*made(case, dtype))
    assert found.differs is None
    assert CLASSES[case][2] in str(found.definition)


@pytest.mark.parametrize("case", CLASSES)
def test_one_wrong_frequency_is_found(case: str) -> None:
    rope, module = made(case)
    lane = 10 if case == "Gemma 4" else 20  # of which only 16 turn
    module.cos_sin_cache[:, lane] = module.cos_sin_cache[:, lane + 1]
    kind = CLASSES[case][2]
    name = kind if kind in table_definitions.OURS else f"transformers' {kind}"
    assert f"1% of its table's values are not those of {name}" in str(tables.judged(rope, module).differs)


def test_either_of_longropes_tables_may_be_wrong() -> None:
    rope, module = made("LongRoPE")
    module.long_short_cos_sin_cache[4096:, 3] += 1
    assert tables.judged(rope, module).differs
    rope, module = made("LongRoPE")
    module.long_short_cos_sin_cache[:4096, 3] += 1
    assert tables.judged(rope, module).differs


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("YaRNScalingRotaryEmbedding", {"truncate": False}, tables.TRUNCATE),
        ("MRotaryEmbedding", {"original_max_position_embeddings": 4 * 4096}, tables.MROPE),
        ("YaRNScalingRotaryEmbedding", {"factor": 3.0}, None),
    ],
)
def test_a_known_difference_is_named(name: str, change: Any, named: str | None) -> None:
    rope = rope_of(YARN)
    said = tables.judged(rope, module_of(name, table_of(rope, "yarn", {**SAME, **change}))).differs
    assert said is not None
    assert (named is None) == said.endswith("yarn")
    assert named is None or said.endswith(named)


@pytest.mark.parametrize("name", ["FourierRotaryEmbedding", "DualChunkRotaryEmbedding", "NewRotaryEmbedding"])
def test_of_a_class_with_a_table_of_its_own_nothing_is_said(name: str) -> None:
    assert tables.judged(rope_of({}), module_of(name, torch.zeros(8, 128))) == tables.NOT_JUDGED


def test_what_cannot_be_judged_says_why_and_is_no_fault_of_either_side() -> None:
    found = tables.judged(rope_of({}), module_of("Llama3RotaryEmbedding", torch.zeros(8, 128)))
    assert found == tables.Judged(None, "its table could not be judged (KeyError: 'low_freq_factor')")


def test_several_linear_factors_are_several_tables() -> None:
    arguments = {"max_position_embeddings": 64, "scaling_factors": [1.0, 4.0]}
    module = module_of("LinearScalingRotaryEmbedding", torch.zeros(320, 128))
    found = parts(module, {**ARGUMENTS, **arguments})
    assert [(len(part.table), part.parameters["factor"]) for part in found] == [(64, 1.0), (256, 4.0)]


REAL = """
import json, torch, types, vllm.config
from vllm.model_executor.layers import rotary_embedding as package
from vllm.model_executor.layers.rotary_embedding import gemma4_rope
from rope_patch.cli import tables
from tests.cli import test_tables as cases
config = vllm.config.VllmConfig()
config.model_config = types.SimpleNamespace(max_model_len=16384)
for case, (name, arguments, *_) in cases.CLASSES.items():
    if "attn_factor" in arguments:  # of older releases
        continue
    cls = getattr(package, name, None) or getattr(gemma4_rope, name)
    rope = cases.rope_of(arguments)
    with vllm.config.set_current_vllm_config(config):
        module = cls(**rope.made.arguments, dtype=torch.float32)
    rope = rope._replace(rotary_dim=module.rotary_dim)
    print(json.dumps([case, *tables.judged(rope, module)]))
"""


def test_the_tables_of_vllms_own_classes_are_right_but_for_one(forks: Forks, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="has the classes")
    done = forks.run(REAL, clean_environment() | {"PYTHONPATH": str(ROOT)}, tmp_path)
    assert done.returncode == 0, done.stderr

    found = {case: (definition, differs) for case, definition, differs in map(json.loads, done.stdout.splitlines())}
    assert len(found) == len(CLASSES) - 1
    assert all(definition for definition, _ in found.values())
    wrong = {case: differs for case, (_, differs) in found.items() if differs}
    assert list(wrong) == ["sections and yarn"]
    assert wrong["sections and yarn"].endswith(tables.MROPE)
