"""``torch.ops.rope_patch.rotary_embedding``: the op that stands for the rotation in traced graphs.

It changes no input and returns no alias of one. The compilers that vllm-ascend uses would copy the inputs of an op with
``mutates_args``, and an op that returns its inputs breaks torch's aliasing rules.
"""

import torch

from rope_patch.rotation import dispatch
from rope_patch.rotation.arguments import Unsupported
from rope_patch.trust import reference

_library = torch.library.Library("rope_patch", "DEF")
_library.define(
    "rotary_embedding(Tensor positions, Tensor query, Tensor? key, Tensor cos_sin_cache, int head_size, "
    "int rotary_dim, bool is_neox_style, str axes='') -> (Tensor, Tensor)"
)


def _rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    axes: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated copies of query and key (an empty tensor for no key); arguments as ``rotary.serve``'s.

    Raises:
        TypeError, ValueError: for a dtype, device or shape that it does not take; names it. Nothing has run then.
    """
    numbers = head_size, rotary_dim, is_neox_style
    rotated = dispatch.rotate(positions, query, key, cos_sin_cache, *numbers, True, axes)
    if isinstance(rotated, Unsupported):
        # A compiler may have chosen strides that the kernel does not take. Copies are contiguous.
        positions, query, key = positions.contiguous(), query.contiguous(), key if key is None else key.contiguous()
        rotated = dispatch.rotate(positions, query, key, cos_sin_cache, *numbers, True, axes)
    if isinstance(rotated, Unsupported):
        named = {"positions": positions, "query": query, "key": key, "cos_sin_cache": cos_sin_cache}
        raise rotated.raised(**named, head_size=head_size, rotary_dim=rotary_dim, axes=axes)
    if rotated is None:  # the kernel must not serve, and the original cannot be called from inside a graph
        rotated_key = None if key is None else _reference(positions, key, cos_sin_cache, *numbers, axes)
        rotated = _reference(positions, query, cos_sin_cache, *numbers, axes), rotated_key
    return rotated[0], query.new_empty(0) if rotated[1] is None else rotated[1]


def _reference(
    positions: torch.Tensor,
    tensor: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    axes: str,
) -> torch.Tensor:
    positions = positions.flatten(1) if axes else positions.flatten()
    heads = tensor.reshape(positions.shape[-1], -1, head_size)
    rotated = reference.rotate(positions, heads, cos_sin_cache, rotary_dim, is_neox_style, axes=axes)
    return rotated.view(tensor.shape)


def _fake(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    axes: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    # A schema has no optional results, so an empty tensor stands for no key.
    return query.new_empty(query.shape), query.new_empty(0) if key is None else key.new_empty(key.shape)


# One implementation for every back end: ``dispatch.rotate`` checks the device at each call.
_library.impl("rotary_embedding", _rotary_embedding, "CompositeExplicitAutograd")
torch.library.register_fake("rope_patch::rotary_embedding", _fake, lib=_library)

rotary_embedding = torch.ops.rope_patch.rotary_embedding.default
