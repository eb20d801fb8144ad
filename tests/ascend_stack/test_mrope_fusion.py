"""vllm-ascend's fusion of split, norm and rotation for Qwen3-VL and Qwen3.5 runs as often with us as without us.

From 0.18 on the forward methods of vLLM's attention are replaced by ones that call one Triton kernel in place of the
rotary class: for Qwen3-VL only if that is an instance of vllm-ascend's. They run here as they are, eagerly and
compiled, on a layer whose projections hand on what they are given. The operator is a double that counts its calls; its
kernel runs in ``test_engine_fused.py``.

Run in each environment of ``stack_environment``, on the host CANN; see the README.
"""

import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.multimodal import HEADS, KV_HEADS, MODELS, Model, build, inputs

pytestmark = needs_stack
FUSED = "triton_split_qkv_rmsnorm_mrope"
# Of vLLM: the module and the class whose forward method vllm-ascend has replaced.
ATTENTION = {
    "Qwen3-VL": ("qwen3", "Qwen3Attention"),
    "Qwen3-VL MoE": ("qwen3_moe", "Qwen3MoeAttention"),
    "Qwen3.5": ("qwen3_next", "Qwen3NextAttention"),
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    stack = start()
    (folder,) = importlib.util.find_spec("vllm_ascend").submodule_search_locations
    found = Path(folder, "ops", "triton", "linearnorm", "split_qkv_rmsnorm_mrope.py").exists()
    assert found == (not stack.version.startswith(("0.11", "0.13"))), "the fusion has moved"
    if not found:
        pytest.skip("this release has no such fusion")
    return stack


def layer(stack: Stack, model: Model, rotary_emb: Any) -> Any:
    """What the forward methods ask of an attention layer; its result is what it would hand to attention."""
    torch, size = stack.torch, model.head_size
    norm = SimpleNamespace(weight=torch.ones(size).bfloat16().npu(), variance_epsilon=1e-6)
    return SimpleNamespace(
        qkv_proj=lambda hidden: (hidden, None), o_proj=lambda x: (x, None), attn=lambda q, k, v: q,
        q_norm=norm, k_norm=norm, rotary_emb=rotary_emb, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=size,
        attn_output_gate=False, config=SimpleNamespace(model_type="qwen3_5_text", rms_norm_eps=1e-6),
    )  # fmt: skip


def forward(stack: Stack, name: str, compiled: bool) -> None:
    """One forward pass of the attention, with positions of an image."""
    torch, model = stack.torch, MODELS[name.removesuffix(" MoE")]
    module, cls = ATTENTION[name]
    replaced = getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), cls).forward
    attention = layer(stack, model, build(stack, model))
    positions, query, key = inputs(torch, model, "image")
    output = {"output": torch.empty_like(query).npu()} if name == "Qwen3.5" else {}

    def run(positions: Any, qkv: Any) -> Any:
        return replaced(attention, positions=positions, hidden_states=qkv, **output)

    torch._dynamo.reset()
    call = torch.compile(run, fullgraph=True, backend="eager") if compiled else run
    with torch.no_grad():
        call(positions.npu(), torch.cat((query, key, key), -1).npu())


def table(stack: Stack) -> dict[tuple[str, str], list[list[int]]]:
    """For each attention and mode, the sections that the fused operator was called with."""
    seen: list[list[int]] = []

    def double(qkv: Any, q_weight: Any, k_weight: Any, cos_sin: Any, q_heads: int, kv_heads: int, head_size: int,
               eps: float, mrope_section: list[int], *rest: Any, **named: Any) -> Any:  # fmt: skip
        seen.append(mrope_section)
        widths = [heads * head_size for heads in (q_heads, kv_heads, kv_heads)]
        return *(x.contiguous() for x in qkv.split(widths, -1)), qkv.new_empty(len(qkv), 0)

    library = stack.torch.library.Library("vllm", "IMPL")
    library.impl(FUSED, double, "PrivateUse1", allow_override=True)
    found = {}
    for name in ATTENTION:
        for mode in ("eager", "compiled"):
            forward(stack, name, mode == "compiled")
            found[name, mode] = list(seen)
            seen.clear()
    library._destroy()
    return found


def test_the_fusion_runs_as_often_with_us_as_without_us(stack: Stack) -> None:
    import rope_patch
    from rope_patch.reporting import ledger

    ledger.reset()
    patched = table(stack)
    assert not ledger.calls(), "no rotary class is called"
    rope_patch.disable()
    try:
        unpatched = table(stack)
    finally:
        rope_patch.enable()
    wanted = {name: [MODELS[name.removesuffix(" MoE")].section] for name in ATTENTION}
    assert unpatched == {(name, mode): wanted[name] for name in ATTENTION for mode in ("eager", "compiled")}
    assert patched == unpatched
