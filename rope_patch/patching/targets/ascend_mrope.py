"""vllm-ascend's ``AscendMRotaryEmbedding.forward_oot``, for tokens with three positions (0.11 and newer).

Why: it has three ways. ``npu_mrope`` serves sections of [16, 24, 24] only, and is told that lanes lie in halves
    whatever the style: GPT-J is silently wrong (GLM-OCR, vllm-ascend #12765). Interleaved sections go to vLLM's
    ``triton_mrope`` (0.13 and newer), which wants cos and sin gathered first, copies q and k, starts a program a token,
    and knows no GPT-J. All else runs about twenty PyTorch operators (GLM-4.1V, GLM-4.5V, GLM-4.6V).
How: this method is replaced; instances stay of their class, for which vllm-ascend's fusion of split, norm and rotation
    asks. NeoX calls with [16, 24, 24] stay with the vendor's operator unless ``VLLM_ASCEND_TRITON_ROPE=all``, as full
    rotary does on old releases: nobody has measured the kernel against it. ``status()`` counts them. What this method
    hands to its parent is served there, by the target ``mrope``.
Upstream: vllm_ascend/ops/rotary_embedding.py, vllm_ascend/patch/worker/patch_qwen3vl.py.
Remove when: vllm-ascend heeds ``is_neox_style`` here, and serves every section by one kernel.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from rope_patch.operators import contract
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.targets import check_parameters, mrope
from rope_patch.settings import Mode, Settings

NAME = "AscendMRotaryEmbedding"
PARAMETERS = ["self", "positions", "query", "key"]
OF_THE_VENDOR = [16, 24, 24]  # the sections that npu_mrope is called for
LEFT_TO_VENDOR = "MRoPE, NeoX, sections 16 24 24: left to npu_mrope, VLLM_ASCEND_TRITON_ROPE=all takes it"


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces ``AscendMRotaryEmbedding.forward_oot`` in vllm-ascend's ``ops.rotary_embedding``."""
    cls = getattr(module, NAME, None)
    native = getattr(cls, "forward_native", None)
    check_parameters(f"{NAME}.forward_oot", getattr(cls, "forward_oot", None), PARAMETERS)
    check_parameters(f"{NAME}.forward_native", native, mrope.PARAMETERS)
    everything = settings.mode is Mode.ALL
    fixed = mrope.style_is_fixed(native)
    has_triton = bool(getattr(module, "HAS_TRITON", False)) and hasattr(cls, "forward_triton")

    def make(original: Any, is_on: IsOn) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward_oot(self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> Any:
            gathers = has_triton and positions.dim() == 2 and self.mrope_interleaved
            style = (self.apply_rotary_emb if fixed else self).is_neox_style
            if not is_on():
                pass  # the original serves
            elif self.mrope_section == OF_THE_VENDOR and style and not gathers and not everything:
                contract.hand_back(LEFT_TO_VENDOR)
            elif not gathers and self.mrope_section != OF_THE_VENDOR:
                pass  # the original hands it to its parent
            elif key is not None and type(self).forward_native is native:
                rotated = mrope.rotate(self, positions, query, key, style)
                if rotated is not None:
                    return rotated
            else:
                contract.hand_back(mrope.OTHER)
            return original(self, positions, query, key)

        return forward_oot

    return Replacement(module, f"{NAME}.forward_oot", make)
