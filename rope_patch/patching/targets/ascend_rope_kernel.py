"""vllm-ascend's ``rope_forward_triton``, as its ``ops.rotary_embedding`` sees it (0.15 and newer).

Why: its kernel reads sin at half the *padded* rotary dim, so every rotary dim that is not a power of two is silently
    wrong (Phi-3, StableLM, GPT-NeoX, Pythia, Nemotron-340B, the GLM-5.2 draft). It also copies q and k first, although
    it accepts strides, and computes a tile of 64 rows even for one key head.
How: the custom op ``vllm::npu_rotary_embedding`` looks up this global of the module at each call, so replacing it
    leaves the op's node in graphs, the fusion passes that match it, and the handling of positions before it as they
    are. Replacing ``rope_forward_oot`` would have no effect, since the op captured it when it was registered. Calls
    that pass cos and sin instead of the cache go to the original, and so do those of newer versions that ask for
    another dtype or pass tensors for the results (fp8 key caches). A key without heads is none.
Upstream: vllm_ascend/ops/rotary_embedding.py, vllm_ascend/ops/triton/rope.py; the wrong dims are those of 0.15 to
    0.27.1rc1, fixed in 0.28.0rc1 (vllm-ascend #15688).
Remove when: every vllm-ascend in use has that fix and a kernel that is as fast.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from rope_patch.operators import contract
from rope_patch.operators.rotation import ROTATIONS
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.targets import NotApplicable, check_parameters
from rope_patch.settings import Settings

NAME = "rope_forward_triton"
PARAMETERS = ["q", "k", "cos", "sin", "cos_sin_cache", "positions", "rope_dim", "is_neox_style"]
NEWER = ["out_dtype", "q_out", "k_out"]  # all three or none; None by default
GATHERED = "cosines and sines that were gathered before"
NOT_PLAIN = "results of another dtype, or in tensors of the caller's"


def check(module: ModuleType) -> None:
    """Raise ``NotApplicable`` unless the module rotates through a function of known parameters."""
    original = getattr(module, NAME, None)
    has = inspect.signature(original).parameters if original else {}
    newer = [name for name in NEWER if name in has]
    check_parameters(NAME, original, [*PARAMETERS, *(NEWER if newer else [])])
    for name in newer:
        if has[name].default is not None:
            raise NotApplicable(f"{NAME}'s {name} is {has[name].default!r} by default, expected None")


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces the global ``rope_forward_triton`` in vllm-ascend's ``ops.rotary_embedding``."""
    check(module)

    def make(original: Any, is_on: IsOn) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
        @functools.wraps(original)
        def rope_forward_triton(
            q: torch.Tensor,
            k: torch.Tensor,
            cos: torch.Tensor | None = None,
            sin: torch.Tensor | None = None,
            cos_sin_cache: torch.Tensor | None = None,
            positions: torch.Tensor | None = None,
            rope_dim: int = -1,
            is_neox_style: bool = True,
            *more: Any,
            **named: Any,
        ) -> Any:
            if not is_on():
                pass  # the original serves
            elif (more or named) and any(value is not None for value in (*more, *named.values())):
                contract.hand_back(NOT_PLAIN)
            elif cos_sin_cache is not None and positions is not None:
                key = k if k.shape[-2] else None
                rotation = ROTATIONS[q.shape[-1], rope_dim, is_neox_style]
                rotated = contract.serve(positions, q, key, cos_sin_cache, rotation)
                if rotated is not None:
                    return rotated if k is key else (rotated[0], k)
            else:
                contract.hand_back(GATHERED)
            return original(q, k, cos, sin, cos_sin_cache, positions, rope_dim, is_neox_style, *more, **named)

        return rope_forward_triton

    return Replacement(module, NAME, make)
