"""vLLM's ``MRotaryEmbedding.forward_oot``, for tokens with three positions (MRoPE).

Why: neither it nor its subclasses define ``forward_oot``, so what vllm-ascend does not register runs about twenty
    PyTorch operators a call on the NPU, in every release: ERNIE-4.5-VL, and all that vllm-ascend's own class hands to
    its parent (GLM-4.1V, GLM-4.5V, GLM-4.6V), and Bailing's class (vLLM 0.30 and newer).
How: ``MRotaryEmbedding`` gets a ``forward_oot``, which subclasses inherit. Positions of ``[T]``, as drafts have them,
    are served too. Whether sections are chunked or interleaved is read from the module; in ERNIE's class and Bailing's
    h and w alternate (ERNIE's sections are those of h, w and t, Bailing's of t, h and w). Any other subclass with a
    ``forward_native`` of its own goes to the original, and so does openPangu's, which overrides ``forward`` and never
    dispatches here. An ``is_neox_style`` that was changed after construction counts where vLLM's native code reads it
    (0.11), and not where that asks a part of the module that was built with it (0.13 and newer).
Upstream: vllm/model_executor/layers/rotary_embedding/mrope.py, ernie45_vl_rope.py, bailing_mrope.py.
Remove when: vllm-ascend serves these classes by one kernel, GPT-J style and all sections included.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from rope_patch.operators import contract
from rope_patch.operators.arguments import axes_of
from rope_patch.operators.rotation import Rotation
from rope_patch.patching.replacement import IsOn, Replacement
from rope_patch.patching.targets import NotApplicable, check_parameters
from rope_patch.settings import Settings

PARAMETERS = ["self", "positions", "query", "key", "offsets"]
# Subclasses in which h and w alternate, and where the sections of t, h and w stand in theirs.
_PACKAGE = "vllm.model_executor.layers.rotary_embedding"
ALTERNATING = {
    (f"{_PACKAGE}.ernie45_vl_rope", "Ernie4_5_VLRotaryEmbedding"): (2, 0, 1),
    (f"{_PACKAGE}.bailing_mrope", "BailingMRotaryEmbedding"): (0, 1, 2),
}
OTHER = "three positions a token: no key, other arguments, or a class that rotates in its own way"
UNKNOWN = "three positions a token: its sections are not ones that the kernel knows"


def style_is_fixed(native: Any) -> bool:
    """Whether this ``forward_native`` takes the style from ``apply_rotary_emb``, which was built with the module."""
    code = getattr(inspect.unwrap(native), "__code__", None)
    return code is not None and "apply_rotary_emb" in code.co_names


def rotate(
    self: Any,
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    is_neox_style: bool,
    alternating: tuple[int, int, int] | None = None,
) -> Any:
    """Serve a call of an ``MRotaryEmbedding``, or return None. Attributes are read at each call: models change them."""
    axes = ""
    if positions.dim() != 1:
        section = self.mrope_section
        section = tuple(section) if section else None
        if alternating:
            t, h, w = [section[place] for place in alternating] if section and len(section) == 3 else (0, 0, 1)
            axes = axes_of((t, h, w) if h == w else None, "alternating", self.rotary_dim)
        else:
            interleaved = getattr(self, "mrope_interleaved", False)
            axes = axes_of(section, "interleaved" if interleaved else "chunked", self.rotary_dim)
        if positions.dim() != 2 or not axes:
            return contract.hand_back(UNKNOWN)
    rotation = Rotation(self.head_size, self.rotary_dim, is_neox_style, axes)
    return contract.serve(positions, query, key, self.cos_sin_cache, rotation)


def replacement(module: ModuleType, settings: Settings) -> Replacement:
    """Replaces ``MRotaryEmbedding.forward_oot`` in vLLM's ``rotary_embedding.mrope``."""
    cls = getattr(module, "MRotaryEmbedding", None)
    native = getattr(cls, "forward_native", None)
    if cls is None or native is None or not hasattr(cls, "forward_oot"):
        raise NotApplicable(f"{module.__name__} has no MRotaryEmbedding with forward_native and forward_oot")
    check_parameters("MRotaryEmbedding.forward_native", native, PARAMETERS)
    fixed = style_is_fixed(native)

    def make(original: Any, is_on: IsOn) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward_oot(
            self: Any, positions: Any, query: Any, key: Any = None, *args: Any, **kwargs: Any
        ) -> Any:  # a subclass may have another signature
            kind = type(self)
            alternating = ALTERNATING.get((kind.__module__, kind.__qualname__))
            if not is_on():
                pass  # the original serves
            elif key is not None and not args and not kwargs and (alternating or kind.forward_native is native):
                style = (self.apply_rotary_emb if fixed else self).is_neox_style
                rotated = rotate(self, positions, query, key, style, alternating)
                if rotated is not None:
                    return rotated
            else:
                contract.hand_back(OTHER)
            return original(self, positions, query, key, *args, **kwargs)

        return forward_oot

    return Replacement(module, "MRotaryEmbedding.forward_oot", make)
