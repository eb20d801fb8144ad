"""A module's table against transformers' definition: right, and two differences that are known."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="compares tensors")
pytest.importorskip("transformers", reason="has the definitions")

from rope_patch.cli import tables  # noqa: E402
from rope_patch.cli.rope_config import Made, RopeConfig  # noqa: E402

LENGTH = {"max_position_embeddings": 4096}
YARN = {**LENGTH, "scaling_factor": 4.0, "beta_fast": 32, "beta_slow": 1}
LLAMA3 = {"scaling_factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "orig_max_position": 8192}


def rope_of(scaling: str, arguments: dict[str, Any]) -> RopeConfig:
    made = Made("vllm:Any", arguments, None, None)
    return RopeConfig("any", 128, 128, 4, 2, theta=5e5, scaling=scaling, parameters=arguments, made=made)


def module_of(rope: RopeConfig, kind: str, dtype: Any = torch.float32, **parameters: Any) -> Any:
    """A module whose table is made in fp32, as vLLM makes it, from transformers' frequencies."""
    frequencies, factor = tables.defined(kind, rope, parameters)
    angles = torch.arange(16384, dtype=torch.float32)[:, None] * frequencies.float()
    table = torch.cat((angles.cos(), angles.sin()), -1) * factor
    return SimpleNamespace(cos_sin_cache=table.to(dtype))


SAME = {"factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("scaling", "arguments", "kind", "parameters"),
    [
        ("default", LENGTH, "default", {}),
        ("linear", {**LENGTH, "scaling_factor": 4.0}, "linear", {"factor": 4.0}),
        ("llama3", {**LENGTH, **LLAMA3}, "llama3",
         {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
        ("yarn", YARN, "yarn", SAME),
        ("default", YARN, "yarn", SAME),
    ],
    ids=["default", "linear", "llama3", "yarn", "sections and yarn"],
)  # fmt: skip
def test_a_table_that_is_as_defined_is_right_within_its_dtype(
    scaling: str, arguments: Any, kind: str, parameters: Any, dtype: Any
) -> None:
    rope = rope_of(scaling, arguments)
    assert tables.differs(rope, module_of(rope, kind, dtype, **parameters)) is None


def test_one_wrong_frequency_is_found() -> None:
    rope = rope_of("default", LENGTH)
    module = module_of(rope, "default")
    module.cos_sin_cache[:, 20] = module.cos_sin_cache[:, 21]
    assert "1% of its table's values are not those of transformers' default" in str(tables.differs(rope, module))


@pytest.mark.parametrize(
    ("scaling", "change", "named"),
    [
        ("yarn", {"truncate": False}, tables.TRUNCATE),
        ("default", {"original_max_position_embeddings": 4 * 4096}, tables.MROPE),
        ("yarn", {"factor": 3.0}, None),
    ],
)
def test_a_known_difference_is_named(scaling: str, change: Any, named: str | None) -> None:
    rope = rope_of(scaling, YARN)
    said = tables.differs(rope, module_of(rope, "yarn", **{**SAME, **change}))
    assert said is not None
    assert (named is None) == said.endswith("yarn")
    assert named is None or said.endswith(named)


@pytest.mark.parametrize("scaling", ["proportional", "dynamic", "FourierRotaryEmbedding"])
def test_of_other_scalings_nothing_is_said(scaling: str) -> None:
    rope = rope_of(scaling, LENGTH)
    assert tables.differs(rope, SimpleNamespace(cos_sin_cache=torch.zeros(8, 128))) is None
