"""From vLLM's tensors to a launch: a cached one, or a new one that is then cached.

In eager mode a layer calls with the same shapes and strides as the one before it, so what was worked out for a layout
is kept: a call of a known layout takes one comparison, its output tensors, and the kernel's own launcher. A layout has
all that a launch depends on but the addresses, read anew at every call: the same tensor object may have become another
piece of memory (``tensor.data = other``, ``resize_``).
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from rope_patch.kernels.launch import Call, Launch, device_facts, planned
from rope_patch.kernels.planning import make_plan
from rope_patch.kernels.runner import hooked
from rope_patch.reporting import ledger
from rope_patch.rotation.arguments import NO_MEMORY, Unsupported, parse
from rope_patch.rotation.cached_launch import CachedLaunch, Rotated, cached_launch
from rope_patch.rotation.outputs import Outputs, outputs_of
from rope_patch.trust import first_use
from rope_patch.trust.signature import signature_of
from rope_patch.trust.trial import ALIGNMENT

Layout = tuple[object, ...]
SHARED = "query and key share memory that would be rotated in place"
UNCHECKED = "its kernel is not among those that were checked"
KEPT = 1024  # layouts, and as many older ones; token counts differ without end, and a step needs a few of them

_cached: dict[Layout, CachedLaunch] = {}
_older: dict[Layout, CachedLaunch] = {}  # what was kept before that; whoever is still in use is taken back from here
# The last call's layout, which is mostly the next one's: comparing is sooner done than hashing. One tuple, so that
# threads see all of it or none.
_last: tuple[Layout, CachedLaunch | None] = ((), None)


def rotate(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    always_fresh: bool,
) -> Rotated | Unsupported | None:
    """Rotate plain tensors; arguments as ``rotary.serve``'s.

    Outputs are new contiguous tensors where the inputs are strided or ``always_fresh`` is set, else the inputs, rotated
    in place. Otherwise nothing was done: an ``Unsupported`` says what is wrong with the arguments, for the caller to
    count; None that the kernel is not to be used, and the ledger why.
    """
    try:
        q, c, p = query.data_ptr(), cos_sin_cache.data_ptr(), positions.data_ptr()
        k = None if key is None else key.data_ptr()
    except RuntimeError:  # sparse, or wrapped by a transform such as torch.vmap
        return NO_MEMORY
    layout: Layout
    if key is None:
        low = q | c | p
        layout = (
            query.shape, query.stride(), query.dtype, query.get_device(),
            positions.shape, positions.is_contiguous(), positions.dtype, positions.get_device(),
            cos_sin_cache.shape, cos_sin_cache.is_contiguous() or cos_sin_cache.stride(),
            cos_sin_cache.dtype, cos_sin_cache.get_device(),
            head_size, rotary_dim, is_neox_style, always_fresh,
        )  # fmt: skip
    else:
        low = q | (k or 0) | c | p
        layout = (
            query.shape, query.stride(), query.dtype, query.get_device(),
            key.shape, key.stride(), key.dtype, key.get_device(),
            positions.shape, positions.is_contiguous(), positions.dtype, positions.get_device(),
            cos_sin_cache.shape, cos_sin_cache.is_contiguous() or cos_sin_cache.stride(),
            cos_sin_cache.dtype, cos_sin_cache.get_device(),
            head_size, rotary_dim, is_neox_style, always_fresh,
        )  # fmt: skip
    if low % ALIGNMENT:
        layout += (q % ALIGNMENT, (k or 0) % ALIGNMENT, c % ALIGNMENT, p % ALIGNMENT)
    last, cached = _last
    if layout != last:
        cached = _known(layout)
    if cached is not None and q and k != 0 and c and p:
        try:
            rotated = cached(query, key, q, k, c, p)
            if rotated is not None:
                return rotated
        except Exception:  # nothing ran: Triton's own way will serve, or say what is wrong
            _keep(layout, None)
    with _current(query.device):
        call = parse(positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style)
        return call if isinstance(call, Unsupported) else _rotate(layout, call, always_fresh)


def _known(layout: Layout) -> CachedLaunch | None:
    """The launch for calls of that layout, if one is cached; then it is the last call's from now on."""
    global _last
    cached = _cached.get(layout)
    if cached is not None:
        _last = layout, cached
    elif layout in _older:
        cached = _older.get(layout)
        _keep(layout, cached)
    return cached


def _keep(layout: Layout, cached: CachedLaunch | None) -> None:
    """Cache a launch, or None instead of it. Two threads at once may lose one, which is worked out once more then."""
    global _cached, _older, _last
    if len(_cached) >= KEPT:
        _cached, _older = {}, _cached
    _last = layout, cached
    if cached is not None:
        _cached[layout] = cached
    else:
        _cached.pop(layout, None)
        _older.pop(layout, None)


def _rotate(layout: Layout, call: Call, always_fresh: bool) -> Rotated | None:
    """A call without a cached launch: ask for trust, plan, launch, and cache that."""
    path = "op" if always_fresh else "eager"
    query, key = call.query.tensor, call.key.tensor if call.key else None
    out = outputs_of(query, key, always_fresh)
    if out is None:
        return _hand_back(ledger.page(), SHARED)
    rotated = query if out.query is None else out.query, key if out.key is None else out.key
    num_tokens = call.positions.numel()
    if not num_tokens or not (call.query.num_heads or (call.key and call.key.num_heads)):
        ledger.page().served[path][0] += 1
        return rotated
    in_place = out.query is None, out.key is None
    shape = call.shape(fresh=not all(in_place))
    signature = signature_of(call, shape, device_facts(query.device), *in_place)
    page = ledger.page(signature)
    trusted = first_use.trusted(signature, call, shape, *in_place)
    if isinstance(trusted, str):
        return _hand_back(page, trusted)
    launch = planned(call, shape, make_plan(shape, num_tokens, trusted.device), trusted.device)
    if not trusted.includes(launch.kernel):
        return _hand_back(page, UNCHECKED)
    error = _start(launch, call, out)
    if error:
        return _hand_back(page, first_use.judged(signature, error, query.device))
    page.served[path][0] += 1
    runner = trusted.runners.get(launch.kernel)
    if runner:
        fresh = not in_place[0], key is not None and not in_place[1]
        _keep(layout, cached_launch(runner, launch, query, key, *fresh, out.spans, page.served[path]))
    return rotated


def _hand_back(page: ledger.Page, reason: str) -> Rotated | None:
    page.fallbacks[reason] += 1
    return None


def _start(launch: Launch, call: Call, out: Outputs) -> Exception | None:
    """Start it through Triton; after an error, which is returned, the tensors are as they were.

    A hook of Triton's may raise when the kernel runs already, so what would be rotated in place is copied if there are
    any. Without hooks nothing is raised after a launch.
    """
    in_place = [call.query.tensor] if out.query is None else []
    in_place += [call.key.tensor] if out.key is None and call.key else []
    copies = [tensor.clone() for tensor in in_place] if hooked() else []
    try:
        launch.on(call, out.query, out.key)
    except Exception as error:
        for tensor, before in zip(in_place, copies, strict=False):
            tensor.copy_(before)
        return error
    return None


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes ``device`` the current one, on which Triton launches."""
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return guard(device) if guard and device.index is not None else nullcontext()


def forget() -> None:
    """Work everything out anew, for tests and after a kernel cache was cleared."""
    forget_launches()
    first_use.forget()


def forget_launches() -> None:
    """Launch through Triton once more for every layout."""
    global _last
    _cached.clear()
    _older.clear()
    _last = (), None
