"""vLLM's rotary classes that rotate in a way of their own, and a call of each as its model makes it.

Natively they run their own ``forward_native``, through the method that they are bound to. It is only noted that it was
reached, with q and k on ``npu:0``, since the host CANN refuses some of its operators (complex numbers, einsum).
"""

import copy
import importlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.ascend_stack.harness import Stack

FOPE = {
    "use_fope": True,
    "num_key_value_heads": 2,
    "num_inv_freq": None,
    "fope_sep_head": True,
    "fope_init_factor": 0.1,
}
SHORT, LONG = 64, 128
FACTORS = {"short_factor": [1.0] * 48, "long_factor": [2.0 + lane / 48 for lane in range(48)]}
MODULES = {
    "Llama4VisionRotaryEmbedding": "llama4_vision_rope",
    "DualChunkRotaryEmbedding": "dual_chunk_rope",
    "DeepseekV4ScalingRotaryEmbedding": "deepseek_scaling_rope",
    "ApplyRotaryEmb": "common",
    "Phi3LongRoPEScaledRotaryEmbedding": "phi3_long_rope_scaled_rope",
}


def longrope(stack: Stack, max_model_len: int) -> Any:
    """Phi-4-mini's, on ``npu:0``: from vLLM 0.13 on ``max_model_len`` decides which of its two caches it uses."""
    config = copy.copy(stack.config)
    config.model_config = SimpleNamespace(max_model_len=max_model_len)
    numbers = 128, 96, LONG, SHORT, 10000.0, True, stack.torch.bfloat16
    return _made(stack, "Phi3LongRoPEScaledRotaryEmbedding", *numbers, **FACTORS, config=config).to("npu:0")


def _made(stack: Stack, name: str, *arguments: Any, config: Any = None, **named: Any) -> Any:
    from vllm.config import set_current_vllm_config

    module = importlib.import_module(f"vllm.model_executor.layers.rotary_embedding.{MODULES[name]}")
    with set_current_vllm_config(config or stack.config):
        return getattr(module, name)(*arguments, **named)


def called(stack: Stack, name: str) -> str:
    """Call the class once. "native": its own code was reached, or may have been; "fails": it cannot be made."""
    torch = stack.torch
    positions, query = torch.arange(3).npu(), torch.randn(3, 4 * 128).bfloat16().npu()
    numbers = 128, 128, 128, 10000.0, True, torch.bfloat16
    if name == "DualChunkRotaryEmbedding":
        try:
            _made(stack, name, *numbers, 64, 16)
        except (AssertionError, RuntimeError):  # torch has no CUDA
            return "fails"
        return "made"
    arguments: tuple[Any, ...] = positions, query, query + 0
    if name == "Phi3LongRoPEScaledRotaryEmbedding":
        longrope(stack, SHORT)(*arguments)
        return "native"
    if name == "FourierRotaryEmbedding":
        embedding = stack.build("default", **FOPE)
    elif name == "XDRotaryEmbedding":
        embedding = stack.build("xdrope", alpha=2.0, xdrope_section=[16, 16, 16, 16])
        arguments = positions.expand(4, 3).contiguous(), *arguments[1:]
    elif name == "Llama4VisionRotaryEmbedding":
        embedding = _made(stack, name, 64, 32, 16, 10000.0, False, torch.complex64)
        arguments = query.view(1, 3, 4, 128), query.view(1, 3, 4, 128) + 0
    elif name == "DeepseekV4ScalingRotaryEmbedding":
        embedding = _made(stack, name, 128, 64, 64, 10000.0, False, 2.0, torch.bfloat16).to("npu:0")
        arguments = positions, query.view(3, 4, 128), query.view(3, 4, 128)[:, :1] + 0
    else:
        embedding = _made(stack, name, enforce_enable=True)  # ApplyRotaryEmb, which rotates by given cosines
        embedding(query.view(3, 4, 128), *torch.randn(2, 3, 64).bfloat16().npu())
        return "native" if "vllm_ascend" in embedding._forward_method.__func__.__module__ else "another way"
    with mock.patch.object(type(embedding), "forward_native") as reached:
        embedding(*arguments)
    return "native" if reached.called else "another way"
