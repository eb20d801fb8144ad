"""The released stacks: which class is selected, what is right or wrong without us, what the base target serves.

In each environment of ``stack_environment``:
``python -m tests.host_cann.run pytest tests/ascend_stack/test_classes.py``.
"""

import dataclasses

import pytest

from tests.ascend_stack import harness, processes
from tests.ascend_stack.models import LLAMA3, YARN
from tests.shapes import SHAPES

pytestmark = harness.needs_stack


def both(models):
    return {"bfloat16": models, "float16": models}


# For each version, what the native code does in bfloat16 and float16: shapes whose result is wrong, and shapes that
# raise. All others are right. In 0.11 and 0.13 doubles of the vendors' operators compute the result, so it only shows
# whether the operator gets the right arguments. Made by ``python -m tests.ascend_stack.native``.
BY_HEAD_SIZE = {"GLM-4-9B", "StableLM-3B", "GPT-J"}  # 0.11 passes head_size for slices of rotary_dim lanes
NOT_A_POWER_OF_TWO = {"Phi-3-mini", "Phi-4-mini", "StableLM-3B", "StableLM-2-12B", "GPT-NeoX-20B"}
WRONG = {
    "0.11.0": {
        "bfloat16": BY_HEAD_SIZE | {"Phi-4-mini", "StableLM-2-12B", "GPT-NeoX-20B", "Nemotron-340B"},
        "float16": BY_HEAD_SIZE,  # the others go to vllm-ascend's own operator
    },
    "0.13.0": {},
    "0.18.0": both(NOT_A_POWER_OF_TWO),
    "0.23.0": both(NOT_A_POWER_OF_TWO | {"Nemotron-340B", "GLM-5.2 draft"}),
    "0.30.0rc2": {},
}
# Ascend's compiler refuses all of these, as their tiles overflow the unified buffer; in 0.11 an operator's double does.
RAISES = {
    "0.11.0": {"bfloat16": {"GLM-4.5 tp8", "Qwen3-Next", "Phi-2", "MiMo-V2"}, "float16": {"Phi-2"}},
    "0.13.0": {},
    "0.18.0": both({"GLM-5.2 draft", "Nemotron-340B", "DeepSeek MLA"}),
    "0.23.0": both({"Gemma-4"}),
    "0.30.0rc2": {},
}


@pytest.fixture(scope="module")
def stack(npu):
    return harness.start()


@pytest.fixture(scope="module")
def native():
    """The table that ``tests.ascend_stack.native`` makes in a process with rope_patch switched off."""
    return processes.table("tests.ascend_stack.native", "0")["errors"]


def test_the_platform_is_npu_and_triton_is_there(stack):
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON

    assert current_platform.device_type == "npu"
    assert type(current_platform).__module__ == "vllm_ascend.platform"
    assert HAS_TRITON is True


@pytest.mark.parametrize(
    ("kind", "parameters", "name", "module"),
    [
        ("default", {}, "AscendRotaryEmbedding", "vllm_ascend.ops.rotary_embedding"),
        ("yarn", YARN, "AscendYaRNRotaryEmbedding", "vllm_ascend.ops.rotary_embedding"),
        ("llama3", LLAMA3, "Llama3RotaryEmbedding", "vllm.model_executor.layers.rotary_embedding.llama3_rope"),
        (
            "linear",
            {"factor": 2.0},
            "LinearScalingRotaryEmbedding",
            "vllm.model_executor.layers.rotary_embedding.linear_scaling_rope",
        ),
    ],
)
def test_the_platform_selects_the_class(stack, kind, parameters, name, module):
    embedding = stack.build(kind, **parameters)
    assert (type(embedding).__name__, type(embedding).__module__) == (name, module)
    assert embedding._forward_method.__name__ == "forward_oot"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=[shape.model for shape in SHAPES])
def test_without_us_a_shape_is_right_or_wrong_as_recorded(stack, native, shape, dtype):
    if stack.version not in WRONG:
        pytest.skip(f"nothing is recorded for vllm-ascend {stack.version}")
    found = native[dtype][shape.model]
    wrong = shape.model in WRONG[stack.version].get(dtype, ())
    raises = shape.model in RAISES[stack.version].get(dtype, ())
    release = f"vllm-ascend {stack.version}, {dtype}, {shape}"
    if raises:
        assert isinstance(found, str), f"{release}: no longer raises (error {found}); update this record and the README"
    elif wrong:
        assert not isinstance(found, str), f"{release}: was wrong, and now raises {found}; update this record"
        assert found >= 0.15, f"{release}: is right now ({found}): upstream fixed it; update this record and the README"
    else:
        assert not isinstance(found, str), f"{release}: was right, and now raises {found}"
        assert found < 0.05, f"{release}: was right, and is now off by {found}"


@pytest.mark.parametrize(("kind", "parameters"), [("llama3", LLAMA3), ("linear", {"factor": 2.0})])
@pytest.mark.parametrize("num_tokens", [1, 2, 67])
def test_the_base_target_serves_classes_that_vllm_ascend_does_not_register(stack, kind, parameters, num_tokens):
    import rope_patch
    from rope_patch.reporting import ledger
    from tests import rotations

    embedding = stack.build(kind, **parameters)
    case = rotations.rotation(num_tokens, 8, 2, 128, 128)
    case = dataclasses.replace(case, cache=embedding.cos_sin_cache)
    before = [tensor.clone() for tensor in (case.query, case.key)]
    ledger.reset()
    after = stack.rotate(embedding, case.positions, case.query, case.key)
    assert ledger.calls()["eager"] > 0, rope_patch.status()
    for tensor, rotated in zip(before, after, strict=True):
        rotations.assert_rotated(case, tensor, rotated)
