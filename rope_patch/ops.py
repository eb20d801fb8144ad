"""``torch.ops.rope_patch.rotary_embedding``: the functional op that stands in traced graphs.

It mutates nothing and returns nothing that aliases an input: an op with ``mutates_args`` is auto-functionalised into
clones by the compilers that vllm-ascend uses, and one that returns its inputs breaks torch's aliasing rules.
"""

import torch

from rope_patch import report, selfcheck
from rope_patch.arguments import Refusal, call_of, refusal_of
from rope_patch.kernels import reference
from rope_patch.kernels.launch import Call, Heads

_library = torch.library.Library("rope_patch", "DEF")
_library.define(
    "rotary_embedding(Tensor positions, Tensor query, Tensor? key, Tensor cos_sin_cache, int head_size, "
    "int rotary_dim, bool is_neox_style) -> (Tensor, Tensor)"
)


def _outputs(query: torch.Tensor, key: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    rotated = torch.empty_like(query, memory_format=torch.contiguous_format)
    # A schema has no optional results: for no key, an empty tensor.
    return rotated, query.new_empty(0) if key is None else torch.empty_like(key, memory_format=torch.contiguous_format)


def _rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated copies of query and key (an empty tensor for no key); arguments as ``rope_patch.rotary.serve``'s.

    Raises:
        TypeError, ValueError: for a dtype, device or shape that it does not take, naming it, before anything runs.
    """
    call: Call | Refusal | None = refusal_of(positions, query, key, cos_sin_cache, head_size, rotary_dim)
    if call is None:
        call = call_of(positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style)
        if isinstance(call, Refusal):  # a compiler may lay tensors out as it likes: what strides forbid, a copy allows
            tensors = positions.contiguous(), query.contiguous(), key if key is None else key.contiguous()
            call = call_of(*tensors, cos_sin_cache, head_size, rotary_dim, is_neox_style)
    if isinstance(call, Refusal):
        named = {"positions": positions, "query": query, "key": key, "cos_sin_cache": cos_sin_cache}
        raise call.raised(**named, head_size=head_size, rotary_dim=rotary_dim)
    rotated, rotated_key = _outputs(query, key)
    fault = selfcheck.launch_trusted(call, rotated, None if key is None else rotated_key)
    if fault:
        report.fallbacks[fault] += 1
        _reference(call, rotated, rotated_key)
    else:
        report.calls["op"] += 1
    return rotated, rotated_key


def _reference(call: Call, rotated: torch.Tensor, rotated_key: torch.Tensor) -> None:
    """What serves an op whose kernel is not to be trusted: the original is out of reach from inside a graph."""
    for heads, out in ((call.query, rotated), (call.key, rotated_key)):
        if heads is not None:
            out.copy_(_rotate_heads(call, heads).view(out.shape))


def _rotate_heads(call: Call, heads: Heads) -> torch.Tensor:
    tensor = heads.tensor.reshape(call.positions.numel(), heads.num_heads, call.head_size)
    return reference.rotate(call.positions.flatten(), tensor, call.cos_sin_cache, call.rotary_dim, call.is_neox_style)


def _fake(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs(query, key)


# One implementation for every back end: what it may run on is checked per call, and by vLLM's platform before.
_library.impl("rotary_embedding", _rotary_embedding, "CompositeExplicitAutograd")
torch.library.register_fake("rope_patch::rotary_embedding", _fake, lib=_library)

rotary_embedding = torch.ops.rope_patch.rotary_embedding.default
