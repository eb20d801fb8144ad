"""vLLM's ``Phi3LongRoPEScaledRotaryEmbedding.forward``: LongRoPE, with one cache for short and one for long contexts.

Why: this class is a plain module, no ``CustomOp``, so vllm-ascend cannot register another and no platform is asked: it
    runs 17 PyTorch operators a call on the NPU, 22 in 0.11 (Phi-3, Phi-4-mini; MiniCPM, which rotates in float32
    before 0.18, from there on).
How: both caches are rows of one tensor. From 0.13 on an instance uses one of them for good, so the kernel gets that
    part of the tensor. In 0.11 a call whose positions go beyond the short one takes the long one for all its tokens;
    its rows are found by the same comparison, on the device, and the kernel gets the whole tensor. Which of the two it
    is follows from the names that ``forward`` uses; with others it is left native. Calls with offsets, without a key,
    or with a cache of another dtype, for which the results would be of another dtype too, go to the original.
Upstream: vllm/model_executor/layers/rotary_embedding/phi3_long_rope_scaled_rope.py.
Remove when: the class dispatches to ``forward_oot``, and vllm-ascend has a fast one.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from rope_patch.operators import contract
from rope_patch.operators.rotation import Rotation
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.targets import NotApplicable, check_parameters
from rope_patch.settings import Settings

NAME = "Phi3LongRoPEScaledRotaryEmbedding"
PARAMETERS = ["self", "positions", "query", "key", "offsets"]
CACHES = {"long_short_cos_sin_cache", "original_max_position_embeddings"}
UNKNOWN = "LongRoPE: offsets, no key, or tensors of other dimensions"
OTHER_DTYPE = "LongRoPE: a cache of another dtype than q and k"


def _chosen_by_call(forward: Any) -> bool:
    """Whether each call chooses between the caches, as in 0.11, and not the instance."""
    code = getattr(inspect.unwrap(forward), "__code__", None)
    used = set(code.co_names) if code else set()
    by_call, by_instance = "any" in used, "use_long_rope" in used
    if not used >= CACHES or by_call == by_instance:
        raise NotApplicable(f"{NAME}.forward does not choose between its caches in a known way")
    return by_call


def _rotate(self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, by_call: bool) -> Any:
    cache, short_rows = self.long_short_cos_sin_cache, self.original_max_position_embeddings
    if cache.dtype != query.dtype:
        return contract.hand_back(OTHER_DTYPE)
    if (positions.dim(), query.dim(), key.dim()) != (1, 2, 2):
        return contract.hand_back(UNKNOWN)
    if by_call:
        positions = positions + (positions > short_rows).any() * short_rows
    elif self.use_long_rope:
        cache = cache[short_rows:]
    return contract.serve(positions, query, key, cache, Rotation(self.head_size, self.rotary_dim, True))


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces ``forward`` of the class in vLLM's ``rotary_embedding.phi3_long_rope_scaled_rope``."""
    forward = getattr(getattr(module, NAME, None), "forward", None)
    check_parameters(f"{NAME}.forward", forward, PARAMETERS)
    by_call = _chosen_by_call(forward)

    def make(original: Any, is_on: IsOn) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward(
            self: Any,
            positions: torch.Tensor,
            query: torch.Tensor,
            key: torch.Tensor | None = None,
            offsets: torch.Tensor | None = None,
        ) -> Any:
            if not is_on():
                pass  # the original serves
            elif key is None or offsets is not None:
                contract.hand_back(UNKNOWN)
            else:
                rotated = _rotate(self, positions, query, key, by_call)
                if rotated is not None:
                    return rotated
            return original(self, positions, query, key, offsets)

        return forward

    return Replacement(module, f"{NAME}.forward", make)
