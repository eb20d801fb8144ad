"""The kernel of vllm-ascend's operator ``vllm::triton_split_qkv_rmsnorm_mrope`` (0.16 and newer).

Why: vllm-ascend replaces the attention of Qwen3-VL and Qwen3.5 by one that calls this operator, in eager mode too:
    split, two RMS norms, rotation by three positions a token, and Qwen3.5's gate. Its kernel takes one token at a time.
    A variance of 0 for k is reported (vllm-ascend #12642).
How: as in ``qkv_rmsnorm_rope``: what stands in the kernel's place in its module serves the call, or starts the original
    with the same arguments. The caller has gathered cosines and sines, a row for each of the three positions. Calls
    whose sections do not fit the rotary dim go to the original, and so do those with rows of one position: that kernel
    would read behind them.
Upstream: vllm_ascend/ops/triton/linearnorm/split_qkv_rmsnorm_mrope.py (the parameters are the same from 0.16 to
    0.30.0rc2), vllm_ascend/patch/worker/patch_qwen3vl.py, patch_qwen3_5.py.
Remove when: as there.
"""

from types import ModuleType
from typing import Any

from rope_patch.operators import contract, norm_contract
from rope_patch.operators.arguments import axes_of
from rope_patch.operators.norm_inputs import Angles, NormRotation, Tensors
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.stand_in import StandIn, function_of
from rope_patch.patching.targets import check_parameters, mrope
from rope_patch.settings import Settings

NAME = "split_qkv_rmsnorm_mrope_kernel"
PARAMETERS = [
    "in_qkv_ptr", "q_weight_ptr", "q_bias_ptr", "k_weight_ptr", "k_bias_ptr", "cos_sin_ptr", "out_q_ptr", "out_k_ptr",
    "out_v_ptr", "out_gate_ptr", "num_tokens", "front_core_num", "num_tokens_each_front_core",
    "num_tokens_each_tail_core", "num_q_heads", "num_kv_heads", "head_size", "q_size", "kv_size", "eps",
    "mrope_section_t", "mrope_section_h", "mrope_section_w", "has_bias", "is_interleaved", "rope_dim", "half_rope_dim",
    "IS_PARTIAL_ROPE", "gate_size",
]  # fmt: skip


def serve(*arguments: Any) -> bool:
    """Serve a call of the kernel, given its arguments."""
    given = dict(zip(PARAMETERS, arguments, strict=True))
    section = given["mrope_section_t"], given["mrope_section_h"], given["mrope_section_w"]
    axes = axes_of(section, "interleaved" if given["is_interleaved"] else "chunked", given["rope_dim"])
    if not axes:
        contract.hand_back(mrope.UNKNOWN)
        return False
    asked = NormRotation(
        head_size=given["head_size"],
        rotary_dim=given["rope_dim"],
        num_heads=given["num_q_heads"],
        num_kv_heads=given["num_kv_heads"],
        eps=given["eps"],
        axes=axes,
    )
    tensors = Tensors(
        given["in_qkv_ptr"],
        *(given["out_q_ptr"], given["out_k_ptr"], given["out_v_ptr"]),
        given["out_gate_ptr"] if given["gate_size"] else None,
        *(given["q_weight_ptr"], given["k_weight_ptr"]),
        *((given["q_bias_ptr"], given["k_bias_ptr"]) if given["has_bias"] else (None, None)),
    )
    return norm_contract.serve(tensors, Angles(given["cos_sin_ptr"], None, None), asked)


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces the global ``split_qkv_rmsnorm_mrope_kernel`` in vllm-ascend's module of that operator."""
    check_parameters(NAME, function_of(getattr(module, NAME, None)), PARAMETERS)

    def make(original: Any, is_on: IsOn) -> Any:
        return StandIn(original, is_on, serve)

    return Replacement(module, NAME, make)
