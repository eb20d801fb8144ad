"""The contract of a rotation: which calls the kernel serves, in place or fresh, and which go back to the original."""

import torch

from rope_patch import ops, report, selfcheck
from rope_patch.arguments import Refusal, call_of, refusal_of
from rope_patch.kernels.launch import launch

Rotated = tuple[torch.Tensor, torch.Tensor | None]


def serve(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
) -> Rotated | None:
    """Rotate query and key by position, or return None: then the original must serve, and the reason was counted.

    Args:
        positions: ``[T]`` or ``[B, S]``, int32 or int64.
        query, key: ``[T, H * D]``, ``[T, H, D]`` or ``[B, S, H * D]``, float16, bfloat16 or float32; key may be None.
        cos_sin_cache: ``[max_position, rotary_dim]``, cosines then sines, of query's dtype or float32.

    Eager: a contiguous tensor is rotated in place and returned; for a strided one (the usual view of qkv) a fresh
    contiguous tensor is returned, pass-through lanes included. Under ``torch.compile`` the functional op is traced:
    fresh outputs always. Never raises.
    """
    if torch.compiler.is_compiling() or type(query) is not torch.Tensor:
        return _traced(positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style)
    call = refusal_of(positions, query, key, cos_sin_cache, head_size, rotary_dim) or call_of(
        positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style
    )
    if isinstance(call, Refusal):
        report.fallbacks[f"not {call.expected}"] += 1
        return None
    if query.requires_grad and torch.is_grad_enabled():
        report.fallbacks["gradients wanted"] += 1
        return None
    query_out = None if query.is_contiguous() else torch.empty_like(query, memory_format=torch.contiguous_format)
    key_out = (
        None if key is None or key.is_contiguous() else torch.empty_like(key, memory_format=torch.contiguous_format)
    )
    fault = selfcheck.fault(call, query_out is None, key_out is None)
    if fault:
        report.fallbacks[fault] += 1
        return None
    launch(call, query_out, key_out)
    report.calls["eager"] += 1
    return query if query_out is None else query_out, key if key_out is None else key_out


def _traced(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
) -> Rotated | None:
    refusal = refusal_of(positions, query, key, cos_sin_cache, head_size, rotary_dim)
    if refusal is not None:
        _count_refused_trace(refusal.expected)
        return None
    _count_trace()
    rotated, rotated_key = ops.rotary_embedding(
        positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style
    )
    return rotated, None if key is None else rotated_key


# Dynamo runs these while it traces, and puts nothing of them into the graph.
@torch.compiler.assume_constant_result
def _count_trace() -> None:
    report.calls["traced"] += 1


@torch.compiler.assume_constant_result
def _count_refused_trace(expected: str) -> None:
    report.fallbacks[f"not {expected}"] += 1
