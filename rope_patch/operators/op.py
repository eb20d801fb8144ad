"""``torch.ops.rope_patch.rotary_embedding``: the op that stands for the rotation in traced graphs.

It changes no input and returns no alias of one. The compilers that vllm-ascend uses would copy the inputs of an op with
``mutates_args``, and an op that returns its inputs breaks torch's aliasing rules.
"""

from typing import Any

import torch
from torch import Tensor

from rope_patch.operators import dispatch
from rope_patch.operators.arguments import Unsupported
from rope_patch.operators.reference import rotate
from rope_patch.operators.rotation import ROTATIONS, Rotation

_library = torch.library.Library("rope_patch", "DEF")
_library.define(
    "rotary_embedding(Tensor positions, Tensor query, Tensor? key, Tensor cos_sin_cache, int head_size, "
    "int rotary_dim, bool is_neox_style, str axes='') -> (Tensor, Tensor)"
)


def _rotary_embedding(
    positions: Tensor, query: Tensor, key: Tensor | None, cos_sin_cache: Tensor, *asked: Any
) -> tuple[Tensor, Tensor]:
    """Rotated copies of query and key (an empty tensor for no key); ``asked`` are the fields of a ``Rotation``.

    Raises:
        TypeError, ValueError: for a dtype, device or shape that it does not take; names it. Nothing has run then.
    """
    rotation = ROTATIONS[asked]
    rotated = dispatch.dispatch(positions, query, key, cos_sin_cache, rotation, True)
    if isinstance(rotated, Unsupported):
        # A compiler may have chosen strides that the kernel does not take. Copies are contiguous.
        positions, query, key = positions.contiguous(), query.contiguous(), key if key is None else key.contiguous()
        rotated = dispatch.dispatch(positions, query, key, cos_sin_cache, rotation, True)
    if isinstance(rotated, Unsupported):
        tensors = {"positions": positions, "query": query, "key": key, "cos_sin_cache": cos_sin_cache}
        raise rotated.raised(**tensors, head_size=asked[0], rotary_dim=asked[1], axes=rotation.axes)
    if rotated is None:  # the kernel must not serve, and the original cannot be called from inside a graph
        rotated_key = None if key is None else _by_reference(positions, key, cos_sin_cache, rotation)
        rotated = _by_reference(positions, query, cos_sin_cache, rotation), rotated_key
    return rotated[0], query.new_empty(0) if rotated[1] is None else rotated[1]


def _by_reference(positions: Tensor, tensor: Tensor, cos_sin_cache: Tensor, rotation: Rotation) -> Tensor:
    positions = positions.flatten(1) if rotation.axes else positions.flatten()
    heads = tensor.reshape(positions.shape[-1], -1, rotation.head_size)
    return rotate(positions, heads, cos_sin_cache, rotation).view(tensor.shape)


def _fake(positions: Tensor, query: Tensor, key: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    # A schema has no optional results, so an empty tensor stands for no key.
    return query.new_empty(query.shape), query.new_empty(0) if key is None else key.new_empty(key.shape)


# One implementation for every back end: ``dispatch`` checks the device at each call.
_library.impl("rotary_embedding", _rotary_embedding, "CompositeExplicitAutograd")
torch.library.register_fake("rope_patch::rotary_embedding", _fake, lib=_library)

rotary_embedding = torch.ops.rope_patch.rotary_embedding.default
