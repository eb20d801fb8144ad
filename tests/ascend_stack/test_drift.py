"""What rope_patch relies on in the installed vLLM and vllm-ascend. A failure says what has changed upstream.

Run in each environment of ``stack_environment``, on the host CANN; see the README. If a new release fails here,
compare its code with the targets before anything else.
"""

import ast
import importlib
import importlib.util
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rope_patch.patching.targets import (
    TARGETS,
    ascend_mrope,
    ascend_rope_kernel,
    ascend_rotary_class,
    longrope,
    mrope,
    rotary_embedding,
)
from tests.ascend_stack import other_classes
from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.models import LLAMA3, YARN
from tests.ascend_stack.release import since

pytestmark = needs_stack


@pytest.fixture(scope="module")
def stack() -> Stack:
    """Disable rope_patch during these tests, since they look at upstream's code."""
    import rope_patch

    stack = start()
    rope_patch.disable()
    yield stack
    rope_patch.enable()


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def calls(function: Callable[..., Any], name: str) -> list[ast.Call]:
    """The calls in the function's source whose last name is ``name``, in order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if ast.unparse(node.func).split(".")[-1] == name]


def test_vllm_dispatches_an_out_of_tree_platform_to_forward_oot_and_keeps_the_bound_method(stack: Stack) -> None:
    embedding = stack.build("llama3", 64, **LLAMA3)
    assert "_forward_method" in vars(embedding), (
        "CustomOp no longer keeps what it dispatches to as _forward_method: replace.rebind finds no live instance"
    )
    assert embedding._forward_method.__func__ is type(embedding).forward_oot, (
        "vLLM's CustomOp no longer dispatches to forward_oot: targets/rotary_embedding.py replaces what nobody calls"
    )
    assert calls(type(embedding).forward_oot, "forward_native"), (
        "CustomOp.forward_oot no longer is forward_native: targets/rotary_embedding.py hands back to something else"
    )


def test_vllms_base_class_has_the_signature_and_the_attributes(stack: Stack) -> None:
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    assert parameters(RotaryEmbedding.forward_native) == rotary_embedding.PARAMETERS, (
        "RotaryEmbedding.forward_native has another signature: see targets/rotary_embedding.py"
    )
    assert "forward_oot" not in vars(RotaryEmbedding), (
        "vLLM's RotaryEmbedding has a forward_oot of its own now: targets/rotary_embedding.py may not be needed"
    )
    embedding = stack.build("llama3", 64, **LLAMA3)
    for name in ("cos_sin_cache", "head_size", "rotary_dim", "is_neox_style"):
        assert hasattr(embedding, name), f"RotaryEmbedding has no {name} any more: see targets/rotary_embedding.py"
    assert embedding.cos_sin_cache.shape[1] == embedding.rotary_dim, (
        "cos_sin_cache is no longer [max_position, rotary_dim], cosines then sines: see arguments.py"
    )


def test_vllm_ascend_registers_the_same_classes_as_before(stack: Stack) -> None:
    from vllm.model_executor import custom_op

    holder = custom_op if hasattr(custom_op, "op_registry_oot") else custom_op.CustomOp  # before 0.18
    registered = {name for name in holder.op_registry_oot if "Rotary" in name}
    assert registered - {"ApplyRotaryEmb"} == {
        "RotaryEmbedding",
        "MRotaryEmbedding",
        "YaRNScalingRotaryEmbedding",
        "DeepseekScalingRotaryEmbedding",
        *(["Gemma4RotaryEmbedding"] if since("0.30.0rc1") else []),
    }, "vllm-ascend registers other rotary classes: what it does not register is ours, see the README's table"


def test_vllm_keeps_its_known_variables_where_we_add_ours(stack: Stack) -> None:
    from vllm import envs

    assert isinstance(envs.environment_variables, dict), "vllm.envs moved: see targets/environment_variable.py"
    assert all(map(callable, envs.environment_variables.values())), "vllm.envs's values are no longer functions"


def test_exactly_one_of_vllm_ascends_call_sites_is_recognised(stack: Stack) -> None:
    import rope_patch

    rope_patch.enable()
    states = rope_patch.status()["targets"]
    rope_patch.disable()
    assert set(states) == {target.name for target in TARGETS}
    assert [states[name] for name in ("ascend_rope_kernel", "ascend_rotary_class")].count("applied") == 1, (
        f"neither arrangement of ops.rotary_embedding is recognised, or both: {states}"
    )


def test_what_scripts_releases_reads_in_its_source_is_what_happens(stack: Stack) -> None:
    import rope_patch
    from scripts.releases import verdicts

    rope_patch.enable()
    states = rope_patch.status()["targets"]
    rope_patch.disable()
    installed = Path(importlib.import_module("vllm_ascend").__file__ or "").parents[1]
    assert verdicts.targets(installed) == states


def test_newer_releases_rotate_through_a_module_global_below_the_operator(stack: Stack) -> None:
    module = stack.rotary_embedding
    if not stack.has_triton_path:
        pytest.skip("the older arrangement")
    newer = ascend_rope_kernel.NEWER if since("0.27.1rc1") else []
    assert parameters(module.rope_forward_triton) == [*ascend_rope_kernel.PARAMETERS, *newer], (
        "rope_forward_triton has another signature: see targets/ascend_rope_kernel.py"
    )
    assert "rope_forward_triton" in module.rope_forward_oot.__code__.co_names, (
        "rope_forward_oot no longer looks rope_forward_triton up when it is called: replacing the global does nothing"
    )
    call = calls(module.rope_forward_oot, "rope_forward_triton")[0]
    handed = {"cos_sin_cache", "positions", "rope_dim", "is_neox_style", *newer[:1]}
    assert {word.arg for word in call.keywords} == handed, (
        "rope_forward_oot hands other things to rope_forward_triton: see targets/ascend_rope_kernel.py"
    )
    schema = str(stack.torch.ops.vllm.npu_rotary_embedding.default._schema)
    assert schema.startswith(
        "vllm::npu_rotary_embedding(Tensor positions, Tensor query, Tensor key, Tensor cos_sin_cache, "
        "SymInt head_size, SymInt rotary_dim, bool is_neox_style"
    ), f"the operator that fusion passes match has another schema: {schema}"
    registered = importlib.import_module("vllm_ascend.ops.register_custom_ops").rope_forward_oot
    assert registered is module.rope_forward_oot, "vllm::npu_rotary_embedding is no longer rope_forward_oot"


def test_the_newer_class_gathers_positions_before_the_operator(stack: Stack) -> None:
    if not stack.has_triton_path:
        pytest.skip("the older arrangement")
    forward = stack.rotary_embedding.AscendRotaryEmbedding.forward_oot
    gather = calls(forward, "maybe_all_gather_and_maybe_unpad") + calls(forward, "all_gather")
    rotate = calls(forward, "npu_rotary_embedding") + calls(forward, "rope_forward_oot")
    assert (len(gather), len(rotate)) == (1, 3 if stack.takes_no_key else 1), (
        "AscendRotaryEmbedding.forward_oot is arranged in another way"
    )
    assert gather[0].lineno < min(call.lineno for call in rotate), (
        "positions are no longer gathered before npu_rotary_embedding: is what we see still what the tokens have?"
    )


def test_older_releases_have_the_method_and_its_inner_function(stack: Stack) -> None:
    module = stack.rotary_embedding
    if stack.has_triton_path:
        pytest.skip("the newer arrangement")
    forward = module.AscendRotaryEmbedding.forward_oot
    assert parameters(forward) == ascend_rotary_class.PARAMETERS, "forward_oot: see targets/ascend_rotary_class.py"
    assert parameters(module._rope_forward_oot) == ascend_rotary_class.INNER_PARAMETERS, "_rope_forward_oot: see there"
    assert calls(forward, "_rope_forward_oot"), "forward_oot no longer ends in _rope_forward_oot"
    assert calls(module.AscendYaRNRotaryEmbedding.forward_oot, "forward_oot"), (
        "YaRN no longer goes through AscendRotaryEmbedding.forward_oot: it is native now, and the README says otherwise"
    )
    assert calls(module.AscendDeepseekScalingRotaryEmbedding.forward, "_rope_forward_oot"), (
        "DeepSeek's class goes another way than past forward_oot: is its layout still its own?"
    )


def test_three_positions_a_token_go_the_ways_that_the_target_knows(stack: Stack) -> None:
    from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding

    cls = stack.rotary_embedding.AscendMRotaryEmbedding
    assert parameters(cls.forward_oot) == ascend_mrope.PARAMETERS, "forward_oot: see targets/ascend_mrope.py"
    assert parameters(cls.forward_native) == mrope.PARAMETERS, "MRotaryEmbedding.forward_native: see targets/mrope.py"
    assert "forward_oot" not in vars(MRotaryEmbedding), (
        "vLLM's MRotaryEmbedding has a forward_oot of its own now: targets/mrope.py may not be needed"
    )
    (vendor,) = calls(cls.forward_oot, "npu_mrope")
    mode = {word.arg: word.value for word in vendor.keywords}["rotary_mode"]
    assert ast.literal_eval(mode) == "half", (
        "npu_mrope is told the style now (vllm-ascend #12765): GPT-J may be left to it, see targets/ascend_mrope.py"
    )
    assert str(ascend_mrope.OF_THE_VENDOR) in inspect.getsource(cls.forward_oot), (
        "npu_mrope is called for other sections: which are left to it in targets/ascend_mrope.py?"
    )


def test_the_fusion_of_split_norm_and_rotation_asks_for_the_class_that_instances_stay_of(stack: Stack) -> None:
    name = "vllm_ascend.patch.worker.patch_qwen3vl"
    found = importlib.util.find_spec(name)
    source = Path(found.origin).read_text() if found and found.origin else ""
    if "triton_split_qkv_rmsnorm_mrope" not in source:
        pytest.skip("this release has no such fusion")
    assert "isinstance(self.rotary_emb, AscendMRotaryEmbedding)" in source, (
        f"{name} asks for something else: do instances still pass?"
    )
    embedding = stack.build("default", 128, mrope_section=[24, 20, 20], mrope_interleaved=True)
    assert isinstance(embedding, stack.rotary_embedding.AscendMRotaryEmbedding)


def test_the_fusion_pass_matches_the_operator_that_we_leave_in_the_graph(stack: Stack) -> None:
    name = "vllm_ascend.compilation.passes.qknorm_rope_fusion_pass"
    try:
        source = inspect.getsource(importlib.import_module(name))
    except ModuleNotFoundError:
        pytest.skip("this release has no fusion pass")
    operator = "torch.ops.vllm.npu_rotary_embedding" if stack.has_triton_path else "npu.npu_apply_rotary_pos_emb"
    assert operator in source, f"{name} matches another operator than {operator}: which must we leave in the graph?"
    head_size = ascend_rotary_class.FUSED
    assert f"layer.head_size != {head_size}" in source, f"{name} no longer is for head_size {head_size} only"


def test_longrope_is_a_plain_module_with_both_caches_in_one_tensor(stack: Stack) -> None:
    from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope as module

    cls = getattr(module, longrope.NAME)
    assert parameters(cls.forward) == longrope.PARAMETERS, "forward: see targets/longrope.py"
    assert not hasattr(cls, "forward_native"), (
        "LongRoPE's class dispatches by platform now: targets/longrope.py may not be needed, see targets/mrope.py"
    )
    source = inspect.getsource(cls.forward)
    assert "torch.any(positions > k)" in source or "if self.use_long_rope:" in source, (
        "LongRoPE chooses between its caches in another way: see targets/longrope.py"
    )
    embedding = other_classes.longrope(stack, other_classes.LONG)
    rows = other_classes.SHORT + other_classes.LONG
    assert embedding.long_short_cos_sin_cache.shape == (rows, embedding.rotary_dim)


def test_verify_names_how_yarns_table_differs(stack: Stack) -> None:
    from rope_patch.cli import tables
    from rope_patch.cli.rope_config import Made, RopeConfig

    ours = stack.build("yarn", 64, **YARN)
    arguments = {"scaling_factor": YARN["factor"], "max_position_embeddings": YARN["original_max_position_embeddings"]}
    rope = RopeConfig("any", 64, 64, 1, 1, made=Made("any:any", arguments, None, None))
    found = tables.judged(rope, ours)
    assert found.definition == "transformers' yarn"
    ours.truncate = True  # vLLM's default, which releases without the parameter have too
    as_on_a_gpu = type(ours)._compute_cos_sin_cache(ours).to(ours.cos_sin_cache)
    differs = not stack.torch.equal(ours.cos_sin_cache, as_on_a_gpu)
    assert differs == str(found.differs).endswith(tables.TRUNCATE), f"YaRN's table is made otherwise now: {found}"
    assert differs == (found.differs is not None)


def test_the_chip_that_it_was_built_for_is_recorded_where_we_look(stack: Stack) -> None:
    built = importlib.import_module("vllm_ascend._build_info")
    assert hasattr(built, "__device_type__") or hasattr(built, "__soc_version__"), (
        "vllm_ascend._build_info no longer names a chip: capability.py takes every chip for capable"
    )
