"""The contract of a rotation: which calls the kernel may serve, and which go to the original."""

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling

from rope_patch.operators import dispatch, op
from rope_patch.operators.arguments import Unsupported, unsupported
from rope_patch.operators.rotation import Rotation
from rope_patch.reporting import ledger, log
from rope_patch.serving.cached_launch import Results
from rope_patch.serving.failures import MayHaveStarted
from rope_patch.serving.memory import NEGATED

# A parameter is plain memory. Any other subclass (a fake tensor, say) needs PyTorch's dispatcher.
PLAIN = Tensor, torch.nn.Parameter
# How many dispatch modes are active (fake tensors, make_fx, operator counters), and whether torch.jit traces. These see
# operators only, so they would miss a kernel that is started on addresses. The public functions are slower.
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", int)
_is_tracing = getattr(torch._C, "_is_tracing", bool)


def serve(
    positions: Tensor, query: Tensor, key: Tensor | None, cos_sin_cache: Tensor, rotation: Rotation
) -> Results | None:
    """Rotate query and key by position. None means that the original must serve; the reason is already counted.

    Args:
        positions: ``[T]`` or ``[B, S]``, int32 or int64; with axes ``[3, T]``: in time, in height and in width. Of one
            outside the cache the lowest 32 bits are clamped to the cache's rows.
        query, key: ``[T, H * D]``, ``[T, H, D]`` or ``[B, S, H * D]``, float16, bfloat16 or float32; key may be None.
        cos_sin_cache: ``[max_position, rotary_dim]``, cosines then sines, of query's dtype or float32.
        rotation: what is asked; its axes are made by ``arguments.axes_of``.

    In eager mode a contiguous tensor is rotated in place and returned. For a strided one (the usual view of qkv) a new
    contiguous tensor is returned, which includes the lanes that are not rotated. Under ``torch.compile`` the op is put
    into the graph, and all outputs are new tensors.

    Never raises of its own: the original serves. Only if a launch in place raised, perhaps after the kernel was
    started, does its error go to the caller, since the original would rotate a second time.
    """
    if is_compiling():
        if is_grad_enabled() and _wants_gradients(query, key, cos_sin_cache):
            return hand_back("gradients wanted")
        return _traced(positions, query, key, cos_sin_cache, rotation)
    try:
        gradients = is_grad_enabled()
        if gradients:  # vLLM calls in inference mode, which pays for none of this
            if _wants_gradients(query, key, cos_sin_cache):
                return hand_back("gradients wanted")
            if any(tensor is not None and tensor.is_neg() for tensor in (positions, query, key, cos_sin_cache)):
                return hand_back(f"expected {NEGATED}")
        if not (type(query) is type(key) is type(positions) is type(cos_sin_cache) is Tensor) and not all(
            type(tensor) in PLAIN for tensor in (positions, query, cos_sin_cache, query if key is None else key)
        ):
            return _traced(positions, query, key, cos_sin_cache, rotation)
        if forward_ad._current_level >= 0:
            return hand_back("in a level of forward-mode differentiation")
        if _dispatch_modes() or _is_tracing():
            return hand_back("under a dispatch mode or a tracer, which would not see the kernel")
        rotated = dispatch.dispatch(positions, query, key, cos_sin_cache, rotation, False)
    except MayHaveStarted as doubt:
        raise doubt.error from None
    except Exception as error:  # no kernel was started; the arguments are of an unforeseen kind
        reason = f"arguments of another kind: {type(error).__name__}"
        log.warn_once(f"rope_patch: a call goes to the original: {reason} (traceback at level DEBUG)")
        log.logger.debug("rope_patch: a call goes to the original", exc_info=True)
        return hand_back(reason)
    if isinstance(rotated, Unsupported):
        return hand_back(f"expected {rotated.expected}")
    if gradients and rotated is not None:
        _tell_autograd(query, key, rotated)
    return rotated


def _tell_autograd(query: Tensor, key: Tensor | None, rotated: Results) -> None:
    """Say that tensors were changed in place: a backward pass that saved one raises, instead of using the new values.

    Tensors made in inference mode have no version; no backward pass may save one.
    """
    for before, after in zip((query, key), rotated, strict=True):
        if before is not None and after is before and not before.is_inference():
            increment_version(before)


def _wants_gradients(query: Tensor, key: Tensor | None, cos_sin_cache: Tensor) -> bool:
    return query.requires_grad or (key is not None and key.requires_grad) or cos_sin_cache.requires_grad


def _traced(
    positions: Tensor, query: Tensor, key: Tensor | None, cos_sin_cache: Tensor, rotation: Rotation
) -> Results | None:
    fault = unsupported(positions, query, key, cos_sin_cache, rotation)
    if fault is not None:
        return hand_back(f"expected {fault.expected}")
    _count_trace()
    asked = rotation.head_size, rotation.rotary_dim, rotation.is_neox_style
    rotated, rotated_key = op.rotary_embedding(
        positions, query, key, cos_sin_cache, *asked, *([rotation.axes] if rotation.axes else [])
    )
    return rotated, None if key is None else rotated_key


# Dynamo calls these two while it traces, and puts nothing of them into the graph.
@torch.compiler.assume_constant_result
def _count_trace() -> None:
    ledger.page().served["traced"][0] += 1


@torch.compiler.assume_constant_result
def hand_back(reason: str) -> None:
    """Count a call that goes to the original, so that ``status()`` says why. Targets call it for their own reasons."""
    ledger.page().fallbacks[reason] += 1
