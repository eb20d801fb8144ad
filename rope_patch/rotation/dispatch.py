"""A call, from vLLM's tensors to a launch; and, for calls of a form that was served before, the short way there.

In eager mode a layer calls with the same shapes and strides as the one before it, so what was worked out for a form is
kept: a call of a known form takes one comparison, its output tensors, and the kernel's own launcher. A form has all
that a launch depends on but the addresses, read anew at every call: the same tensor object may have become another
piece of memory (``tensor.data = other``, ``resize_``).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from rope_patch.kernels.launch import Call, Launch, planned
from rope_patch.kernels.launcher import Launcher
from rope_patch.kernels.planning import make_plan
from rope_patch.kernels.shortcuts import allocator, device_getter, stream_getter
from rope_patch.rotation.arguments import Refusal, call_of, refusal_of
from rope_patch.trust import first_use
from rope_patch.trust.trial import ALIGNMENT

Rotated = tuple[torch.Tensor, torch.Tensor | None]
# Serves query and key, given their addresses, the cache's and the positions'; None, with nothing done, where that is
# for the long way to decide.
Way = Callable[[torch.Tensor, torch.Tensor | None, int, int | None, int, int], Rotated | None]
Form = tuple[object, ...]
NO_MEMORY = Refusal(TypeError, "tensors with memory of their own, not sparse ones or those of a transform")
SHARED = "query and key share memory that would be rotated in place"
KEPT = 1024  # forms, and as many older ones; token counts differ without end, and a step needs a few of them

_ways: dict[Form, Way] = {}
_older: dict[Form, Way] = {}  # what was kept before that; whoever is still in use is taken back from here
# The last call's form, which is mostly the next one's: comparing is sooner done than hashing. One tuple, so that
# threads see all of it or none.
_last: tuple[Form, Way | None] = ((), None)


def rotate(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    always_fresh: bool,
) -> Rotated | Refusal | str:
    """Rotate plain tensors; arguments as ``rotary.serve``'s.

    Outputs are new contiguous tensors where the inputs are strided or ``always_fresh`` is set, else the inputs, rotated
    in place. A ``Refusal`` or a string says why nothing was done: what is wrong with the arguments, or with the kernel.
    """
    try:
        q, c, p = query.data_ptr(), cos_sin_cache.data_ptr(), positions.data_ptr()
        k = None if key is None else key.data_ptr()
    except RuntimeError:  # sparse, or wrapped by a transform such as torch.vmap
        return NO_MEMORY
    form: Form
    if key is None:
        low = q | c | p
        form = (
            query.shape, query.stride(), query.dtype, query.get_device(),
            positions.shape, positions.is_contiguous(), positions.dtype, positions.get_device(),
            cos_sin_cache.shape, cos_sin_cache.is_contiguous() or cos_sin_cache.stride(),
            cos_sin_cache.dtype, cos_sin_cache.get_device(),
            head_size, rotary_dim, is_neox_style, always_fresh,
        )  # fmt: skip
    else:
        low = q | (k or 0) | c | p
        form = (
            query.shape, query.stride(), query.dtype, query.get_device(),
            key.shape, key.stride(), key.dtype, key.get_device(),
            positions.shape, positions.is_contiguous(), positions.dtype, positions.get_device(),
            cos_sin_cache.shape, cos_sin_cache.is_contiguous() or cos_sin_cache.stride(),
            cos_sin_cache.dtype, cos_sin_cache.get_device(),
            head_size, rotary_dim, is_neox_style, always_fresh,
        )  # fmt: skip
    if low % ALIGNMENT:
        form += (q % ALIGNMENT, (k or 0) % ALIGNMENT, c % ALIGNMENT, p % ALIGNMENT)
    last, way = _last
    if form != last:
        way = _known(form)
    if way is not None and q and k != 0 and c and p:
        try:
            rotated = way(query, key, q, k, c, p)
            if rotated is not None:
                return rotated
        except Exception:  # nothing ran: Triton's own way will serve, or say what is wrong
            _keep(form, None)
    with _current(query.device):
        arguments = positions, query, key, cos_sin_cache, head_size, rotary_dim
        call = refusal_of(*arguments) or call_of(*arguments, is_neox_style)
        if isinstance(call, Refusal):
            return call
        if any(
            tensor.numel() and not tensor.data_ptr() for tensor in (query, positions, query if key is None else key)
        ):
            return NO_MEMORY
        return _rotate(form, call, key, always_fresh)


def _known(form: Form) -> Way | None:
    """The way for calls of that form, if there is one; then it is the last call's from now on."""
    global _last
    way = _ways.get(form)
    if way is not None:
        _last = form, way
    elif form in _older:
        way = _older.get(form)
        _keep(form, way)
    return way


def _keep(form: Form, way: Way | None) -> None:
    """Keep a way, or None instead of it. Two threads at once may lose a way, which is worked out once more then."""
    global _ways, _older, _last
    if len(_ways) >= KEPT:
        _ways, _older = {}, _ways
    _last = form, way
    if way is not None:
        _ways[form] = way
    else:
        _ways.pop(form, None)
        _older.pop(form, None)


def _rotate(form: Form, call: Call, key: torch.Tensor | None, always_fresh: bool) -> Rotated | str:
    query = call.query.tensor
    query_fresh = always_fresh or not query.is_contiguous()
    key_fresh = key is not None and (always_fresh or not key.is_contiguous())
    spans = (0, 0) if key is None or (query_fresh and key_fresh) else (_span(query), _span(key))
    q, k = query.data_ptr(), 0 if key is None else key.data_ptr()
    if q < k + spans[1] and k < q + spans[0]:
        return SHARED
    query_out = _fresh(query) if query_fresh else None
    key_out = _fresh(key) if key is not None and key_fresh else None
    if call.positions.numel() > 0 and (call.query.num_heads or (call.key and call.key.num_heads)):
        found = first_use.launch_trusted(call, query_out, key_out)
        if isinstance(found, str):
            return found
        plan = make_plan(call.shape(query_out is not None or key_out is not None), call.positions.numel(), found.device)
        work = planned(call, plan, found.device)
        launcher = found.launchers.get(work.kernel)
        if launcher:
            _keep(form, _way(launcher, work, query, key, query_fresh, key_fresh, spans, found.served))
    return query if query_out is None else query_out, key if key_out is None else key_out


def _way(
    launcher: Launcher,
    work: Launch,
    query: torch.Tensor,
    key: torch.Tensor | None,
    query_fresh: bool,
    key_fresh: bool,
    spans: tuple[int, int],
    served: list[int],
) -> Way:
    """How to serve calls of the form of ``query`` and ``key``. Nothing is looked up when it does: that costs more."""
    device, dtype, index = query.device, query.dtype, query.device.index
    current_device, current_stream = device_getter(device.type), stream_getter(device.type, launcher.queued)
    programs, run, before, after = work.programs, launcher.run, launcher.before, (*work.numbers, *launcher.after)
    shape, strides = tuple(query.shape), _contiguous(query)
    key_shape, key_strides = (tuple(key.shape), _contiguous(key)) if key is not None else (shape, strides)
    empty = allocator(device)
    q_span, k_span = spans

    # The default keeps the kernel loaded.
    def way(
        query: torch.Tensor, key: torch.Tensor | None, q: int, k: int | None, c: int, p: int, kernel: object = launcher
    ) -> Rotated | None:
        if current_device() != index or (k_span and k is not None and q < k + k_span and k < q + q_span):
            return None
        q_out = k_out = None
        if query_fresh:
            query = empty(shape, strides, dtype)
            q_out = query.data_ptr()
        if key_fresh:
            key = empty(key_shape, key_strides, dtype)
            k_out = key.data_ptr()
        run(programs, 1, 1, current_stream(index), *before, q, k, q_out, k_out, c, p, *after)
        served[0] += 1
        return query, key

    return way


def _contiguous(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides of a contiguous tensor of that shape."""
    return torch.empty(tensor.shape, device="meta").stride()


def _span(tensor: torch.Tensor) -> int:
    """Bytes from a tensor's first element to behind its last; 0 if it has none."""
    apart = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + apart) * tensor.element_size() if tensor.numel() else 0


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty(tensor.shape)  # contiguous; torch-npu warns of empty_like with a memory format


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes ``device`` the current one, on which Triton launches."""
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return guard(device) if guard and device.index is not None else nullcontext()


def forget() -> None:
    """Work everything out anew, for tests and after a kernel cache was cleared."""
    forget_ways()
    first_use.forget()


def forget_ways() -> None:
    """Take the long way once more for every form."""
    global _last
    _ways.clear()
    _older.clear()
    _last = (), None
