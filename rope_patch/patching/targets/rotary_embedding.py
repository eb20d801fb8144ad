"""vLLM's ``RotaryEmbedding.forward_oot``.

Why: on an out-of-tree platform vLLM dispatches to ``forward_oot``, which no rotary class defines; ``CustomOp``'s calls
    ``forward_native``. So the classes for which vllm-ascend registers nothing of its own (Llama3, Linear, NTK,
    DynamicNTK, Gemma4 ...) run some ten PyTorch operators per call on the NPU, at every release.
How: a ``forward_oot`` on ``RotaryEmbedding``, inherited by every subclass. Subclasses with mathematics of their own,
    known by their own ``forward_native`` or ``forward_static``, are handed to the original.
Upstream: vllm/model_executor/layers/rotary_embedding/base.py, custom_op.py.
Remove when: vllm-ascend registers a fast class for each of them, or vLLM's native path is one kernel.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.compiler import is_compiling

from rope_patch.patching.replace import Undo, replace
from rope_patch.patching.targets import NotApplicable
from rope_patch.rotation import rotary
from rope_patch.settings import Settings

PARAMETERS = ["self", "positions", "query", "key"]


def _rotate(self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None) -> Any:
    # Attributes are read per call: models change is_neox_style after construction, and caches are replaced. In eager
    # mode a buffer is taken from where PyTorch keeps it, sooner than by Module.__getattr__.
    cache = None if is_compiling() else self._buffers.get("cos_sin_cache")
    if cache is None:
        cache = self.cos_sin_cache
    return rotary.serve(positions, query, key, cache, self.head_size, self.rotary_dim, self.is_neox_style)


def install(module: ModuleType, settings: Settings) -> Undo:
    """Replace ``RotaryEmbedding.forward_oot`` in vLLM's ``rotary_embedding.base``."""
    rotary_embedding = getattr(module, "RotaryEmbedding", None)
    native = getattr(rotary_embedding, "forward_native", None)
    if rotary_embedding is None or native is None:
        raise NotApplicable(f"{module.__name__} has no RotaryEmbedding.forward_native")
    parameters = list(inspect.signature(native).parameters)
    if parameters != PARAMETERS:
        raise NotApplicable(f"forward_native takes {parameters}, expected {PARAMETERS}")
    if not hasattr(rotary_embedding, "forward_oot"):
        raise NotApplicable("RotaryEmbedding has no forward_oot to dispatch to")

    static = getattr(rotary_embedding, "forward_static", None)  # what forward_native calls, in newer versions

    def make(original: Any) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward_oot(self: Any, *args: Any, **kwargs: Any) -> Any:
            cls = type(self)
            if cls.forward_native is native and getattr(cls, "forward_static", None) is static:
                rotated = _rotate(self, *args, **kwargs)
                if rotated is not None:
                    return rotated
            return original(self, *args, **kwargs)  # whatever signature a class with its own mathematics may have

        return forward_oot

    return replace(module, "RotaryEmbedding.forward_oot", make)
