"""How a class of vLLM takes q and k, and how vllm-ascend's for DeepSeek gives them back."""

from typing import Any

import torch

DEEPSEEK = "DeepseekScalingRotaryEmbedding"


def given(module: Any, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k as the class takes them: DeepSeek's has its heads apart, as latent attention has them."""
    if DEEPSEEK not in _names(module):
        return query, key
    return _apart(query, module.head_size), _apart(key, module.head_size)


def taken(module: Any, rotated: Any) -> list[torch.Tensor]:
    """What the class gives back, as ``[num_tokens, heads * head_size]``, with its lanes where they were.

    vllm-ascend's class for DeepSeek puts the first lanes of GPT-J's pairs before the second, in q and k alike.
    """
    if f"Ascend{DEEPSEEK}" in _names(module) and not module.is_neox_style:
        rotated = [torch.stack(tensor.chunk(2, dim=-1), dim=-1) for tensor in rotated]
    return [tensor.reshape(len(tensor), -1) for tensor in rotated]


def _apart(tensor: torch.Tensor, head_size: int) -> torch.Tensor:
    return tensor.view(len(tensor), -1, head_size)


def _names(module: Any) -> list[str]:
    return [cls.__name__ for cls in type(module).__mro__]
