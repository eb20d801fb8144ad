"""vllm-ascend's ``AscendRotaryEmbedding.forward_oot``, in the releases that do not rotate with Triton (0.11, 0.13).

Why: partial rotary is sliced, copied, rotated by a vendor operator and concatenated again: 57 us a layer where 9 us was
    shown possible (vllm-ascend #5918). 0.11 passes ``head_size`` to that operator where it expects the rotary dim.
How: this method is replaced; ``AscendYaRNRotaryEmbedding`` calls it too. The kernel takes partial rotary. Full rotary
    is served by one vendor operator and stays native unless ``VLLM_ASCEND_TRITON_ROPE=all``, since nobody has measured
    the kernel against that operator on an NPU. NeoX with head_size and rotary_dim 128 stays native even then: 0.13's
    ``qknorm_rope_fusion_pass`` matches the vendor operator in the graph, and without it that fusion would be lost
    silently. ``status()`` counts both among the fallbacks. ``AscendDeepseekScalingRotaryEmbedding`` stays native: it
    calls ``_rope_forward_oot`` itself.
Upstream: vllm_ascend/ops/rotary_embedding.py.
Remove when: no vllm-ascend older than 0.15 is in use.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from rope_patch.operators import contract
from rope_patch.operators.rotation import Rotation
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.targets import NotApplicable, check_parameters
from rope_patch.settings import Mode, Settings

PARAMETERS = ["self", "positions", "query", "key", "offsets", "is_neox_style_override"]
INNER_PARAMETERS = ["self", "positions", "query", "key", "is_neox_style", "offsets"]
FUSED = 128  # the head_size and rotary_dim that qknorm_rope_fusion_pass matches
LEFT_TO_FUSION = "full rotary, NeoX 128/128: left to the vendor operator, since a fusion pass may match it"
OFFSETS = "a call with offsets"
LEFT_TO_VENDOR = "full rotary: left to the vendor operator, VLLM_ASCEND_TRITON_ROPE=all takes it"


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces ``AscendRotaryEmbedding.forward_oot`` in vllm-ascend's ``ops.rotary_embedding``."""
    if hasattr(module, "rope_forward_triton"):
        raise NotApplicable("rotates through rope_forward_triton, which ascend_rope_kernel is for")
    forward = getattr(getattr(module, "AscendRotaryEmbedding", None), "forward_oot", None)
    check_parameters("AscendRotaryEmbedding.forward_oot", forward, PARAMETERS)
    check_parameters("_rope_forward_oot", getattr(module, "_rope_forward_oot", None), INNER_PARAMETERS)
    everything = settings.mode is Mode.ALL

    def make(original: Any, is_on: IsOn) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward_oot(
            self: Any,
            positions: torch.Tensor,
            query: torch.Tensor,
            key: torch.Tensor,
            offsets: torch.Tensor | None = None,
            is_neox_style_override: bool | None = None,
        ) -> Any:
            is_neox_style = self.is_neox_style if is_neox_style_override is None else is_neox_style_override
            if not is_on():
                pass  # the original serves
            elif is_neox_style and self.head_size == FUSED and self.rotary_dim == FUSED:
                contract.hand_back(LEFT_TO_FUSION)
            elif self.rotary_dim == self.head_size and not everything:
                contract.hand_back(LEFT_TO_VENDOR)
            elif offsets is not None:
                contract.hand_back(OFFSETS)
            else:
                rotation = Rotation(self.head_size, self.rotary_dim, is_neox_style)
                rotated = contract.serve(positions, query, key, self.cos_sin_cache, rotation)
                if rotated is not None:
                    return rotated
            return original(self, positions, query, key, offsets, is_neox_style_override)

        return forward_oot

    return Replacement(module, "AscendRotaryEmbedding.forward_oot", make)
