"""vLLM's ``RotaryEmbedding.forward_oot``.

Why: on an out-of-tree platform vLLM dispatches to ``forward_oot``. No rotary class defines it, and ``CustomOp``'s calls
    ``forward_native``. So the classes that vllm-ascend does not replace (Llama3, Linear, NTK, DynamicNTK, Gemma4 ...)
    run about ten PyTorch operators per call on the NPU, in every release.
How: ``RotaryEmbedding`` gets a ``forward_oot``, which every subclass inherits. A subclass that rotates in another way
    overrides ``forward_native`` or ``forward_static``; its calls go to the original, and are counted. Where it has a
    ``forward_oot`` of its own which calls this one, as vLLM's MRoPE of 0.11 has by us, that one has counted them.
Upstream: vllm/model_executor/layers/rotary_embedding/base.py, custom_op.py.
Remove when: vllm-ascend registers a fast class for each of them, or vLLM's native code is one kernel.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.compiler import is_compiling

from rope_patch.operators import contract
from rope_patch.operators.rotation import ROTATIONS, Rotation
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.targets import NotApplicable, check_parameters
from rope_patch.settings import Settings

PARAMETERS = ["self", "positions", "query", "key"]
ITS_OWN = "a class that rotates in its own way"


def _rotate(self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None) -> Any:
    # Attributes are read at each call, since models change is_neox_style after construction and replace caches. In
    # eager mode the buffer is read from ``_buffers``, which is faster than Module.__getattr__.
    if is_compiling():
        rotation = Rotation(self.head_size, self.rotary_dim, self.is_neox_style)
        return contract.serve(positions, query, key, self.cos_sin_cache, rotation)
    cache = self._buffers.get("cos_sin_cache")
    if cache is None:
        cache = self.cos_sin_cache
    rotation = ROTATIONS[self.head_size, self.rotary_dim, self.is_neox_style]
    return contract.serve(positions, query, key, cache, rotation)


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces ``RotaryEmbedding.forward_oot`` in vLLM's ``rotary_embedding.base``."""
    rotary_embedding = getattr(module, "RotaryEmbedding", None)
    native = getattr(rotary_embedding, "forward_native", None)
    if rotary_embedding is None or native is None:
        raise NotApplicable(f"{module.__name__} has no RotaryEmbedding.forward_native")
    check_parameters("RotaryEmbedding.forward_native", native, PARAMETERS)
    if not hasattr(rotary_embedding, "forward_oot"):
        raise NotApplicable("RotaryEmbedding has no forward_oot to dispatch to")

    static = getattr(rotary_embedding, "forward_static", None)  # forward_native calls it in newer versions

    def make(original: Any, is_on: IsOn) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward_oot(self: Any, *args: Any, **kwargs: Any) -> Any:
            cls = type(self)
            if not is_on():
                pass  # the original serves
            elif cls.forward_native is native and getattr(cls, "forward_static", None) is static:
                rotated = _rotate(self, *args, **kwargs)
                if rotated is not None:
                    return rotated
            elif cls.forward_oot is forward_oot:
                contract.hand_back(ITS_OWN)
            return original(self, *args, **kwargs)  # a subclass may have another signature

        return forward_oot

    return Replacement(module, "RotaryEmbedding.forward_oot", make)
