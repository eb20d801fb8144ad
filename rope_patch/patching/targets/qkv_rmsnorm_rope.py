"""The kernel of vllm-ascend's operator ``vllm::qkv_rmsnorm_rope``: split, two RMS norms and rotation (0.13 and newer).

Why: vllm-ascend's fusion pass puts that operator into the graphs of bf16 models that norm q and k in heads of 128
    (Qwen3, GLM-4.5 and most MoE models), so no rotary class is called there. Its kernel rounds q and k to bf16 between
    norm and rotation; on hardware they are reported to be wrong, and different from run to
    run (vllm-ascend #16674, open), since positions are read back from the unified buffer without waiting.
How: the operator's implementation looks its kernel up in the module at each call, makes tensors for the results, and
    starts it as ``kernel[grid](…)``. What stands there instead serves the call, or starts the original with the same
    arguments. The operator's schema, the graph, the pass and what is compiled and cached stay as they are. The
    implementation itself is no seam to use: its function was captured when it was registered, and torch's dispatcher,
    which can be given another one, takes that away under a thread that is just calling it (torch 2.13: "INTERNAL ASSERT
    FAILED" in that thread, within seconds of a loop). A module's global changes at one moment.
    0.13 and 0.14 gather cosines and sines before; their second halves repeat the first.
Upstream: vllm_ascend/ops/triton/linearnorm/split_qkv_rmsnorm_rope.py (three texts: 0.13 and 0.14; 0.15; 0.16 to
    0.30.0rc2), vllm_ascend/compilation/passes/qknorm_rope_fusion_pass.py.
Remove when: every vllm-ascend in use has a kernel that is right, gives the same at each run, and is as fast.
"""

from types import ModuleType
from typing import Any

from rope_patch.operators import norm_contract
from rope_patch.operators.norm_inputs import Angles, NormRotation, Tensors
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.stand_in import StandIn, function_of
from rope_patch.patching.targets import check_parameters
from rope_patch.settings import Settings

NAME = "split_qkv_rmsnorm_rope_kernel"
OF_0_13 = [
    "input_ptr", "sin_ptr", "cos_ptr", "q_ptr", "k_ptr", "v_ptr", "q_weight_ptr", "q_bias_ptr", "k_weight_ptr",
    "k_bias_ptr", "batch_size", "q_hidden_size", "kv_hidden_size", "total_hidden_size", "eps", "Q_BLOCK_SIZE",
    "KV_BLOCK_SIZE", "BIAS", "HEAD_DIM", "HALF_HEAD_DIM",
]  # fmt: skip
OF_0_15 = [
    "input_ptr", "cos_sin_ptr", "pos_ptr", "q_ptr", "k_ptr", "v_ptr", "q_weight_ptr", "q_bias_ptr", "k_weight_ptr",
    "k_bias_ptr", "batch_size", "q_hidden_size", "kv_hidden_size", "total_hidden_size", "eps", "Q_BLOCK_SIZE",
    "KV_BLOCK_SIZE", "BIAS", "HEAD_DIM", "HALF_HEAD_DIM",
]  # fmt: skip
FROM_0_16 = [
    "input_gm_ptr", "q_gm_ptr", "k_gm_ptr", "v_gm_ptr", "q_weight_ptr", "q_bias_ptr", "k_weight_ptr", "k_bias_ptr",
    "batch_size", "q_hidden_size", "kv_hidden_size", "total_hidden_size", "eps", "BIAS", "HEAD_DIM", "ROPE_DIM",
    "HALF_ROPE_DIM", "IS_PARTIAL_ROPE", "num_vectorcore", "batch_size_per_iter_per_vec",
    "qk_head_nums_per_iter_per_vec", "q_head_num", "kv_head_num", "qk_head_num_sum", "v_batch_size_per_iter_per_vec",
    "positions_gm_ptr", "cos_sin_cache_gm_ptr",
]  # fmt: skip
# By the first three parameters.
KNOWN = {tuple(known[:3]): known for known in (OF_0_13, OF_0_15, FROM_0_16)}


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces the global ``split_qkv_rmsnorm_rope_kernel`` in vllm-ascend's module of that operator."""
    function = function_of(getattr(module, NAME, None))
    known = KNOWN.get(function.__code__.co_varnames[:3] if function else (), FROM_0_16)
    check_parameters(NAME, function, known)
    ending = "_gm_ptr" if known is FROM_0_16 else "_ptr"

    def serve(*arguments: Any) -> bool:
        given = dict(zip(known, arguments, strict=True))
        qkv, q, k, v = (given[name + ending] for name in ("input", "q", "k", "v"))
        if known is OF_0_13:
            angles = Angles(given["cos_ptr"], given["sin_ptr"], None)
        elif known is OF_0_15:
            angles = Angles(given["cos_sin_ptr"], None, given["pos_ptr"])
        else:
            angles = Angles(given["cos_sin_cache_gm_ptr"], None, given["positions_gm_ptr"])
        biases = (given["q_bias_ptr"], given["k_bias_ptr"]) if given["BIAS"] else (None, None)
        head_size = given["HEAD_DIM"]
        asked = NormRotation(
            head_size=head_size,
            rotary_dim=given.get("ROPE_DIM", head_size),
            num_heads=given["q_hidden_size"] // head_size,
            num_kv_heads=given["kv_hidden_size"] // head_size,
            eps=given["eps"],
        )
        return norm_contract.serve(
            Tensors(qkv, q, k, v, None, given["q_weight_ptr"], given["k_weight_ptr"], *biases), angles, asked
        )

    def make(original: Any, is_on: IsOn) -> Any:
        return StandIn(original, is_on, serve)

    return Replacement(module, NAME, make)
