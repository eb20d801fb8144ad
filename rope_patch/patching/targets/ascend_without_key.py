"""vllm-ascend's ``AscendRotaryEmbedding.forward_oot`` for calls without a key (0.15 to 0.27).

Why: vLLM's own class takes ``key=None``, for layers that use the keys of another one; vllm-ascend's raises, since its
    operator wants two tensors. Drafts of Gemma 4 (MTP) call it so (vllm-ascend #11399).
How: the original gets a key without heads, so it gathers a draft's positions as ever, and its operator stays in graphs;
    below that, the target ``ascend_rope_kernel`` rotates the query alone. ``AscendYaRNRotaryEmbedding`` calls this
    method too. A call that the kernel cannot take goes to upstream's kernel so.
Upstream: vllm_ascend/ops/rotary_embedding.py; from 0.28.0rc1 on it does the same itself, and its key may be None.
Remove when: no vllm-ascend older than 0.28 is in use.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.targets import NotApplicable, ascend_rope_kernel, ascend_rotary_class, check_parameters
from rope_patch.settings import Settings

NAME = "AscendRotaryEmbedding.forward_oot"


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces ``AscendRotaryEmbedding.forward_oot`` in vllm-ascend's ``ops.rotary_embedding``."""
    ascend_rope_kernel.check(module)
    forward = getattr(getattr(module, "AscendRotaryEmbedding", None), "forward_oot", None)
    has = inspect.signature(forward).parameters if forward else {}
    newer = ["out_dtype"] if "out_dtype" in has else []
    check_parameters(NAME, forward, [*ascend_rotary_class.PARAMETERS, *newer])
    if "None" in str(has["key"].annotation):
        raise NotApplicable(f"{NAME} takes calls without a key itself")

    def make(original: Any, is_on: IsOn) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward_oot(
            self: Any,
            positions: torch.Tensor,
            query: torch.Tensor,
            key: torch.Tensor | None = None,
            *more: Any,
            **named: Any,
        ) -> Any:
            if key is not None or not is_on():
                return original(self, positions, query, key, *more, **named)
            no_heads = query.new_empty((query.shape[0], 0))
            return original(self, positions, query, no_heads, *more, **named)[0], None

        return forward_oot

    return Replacement(module, NAME, make)
