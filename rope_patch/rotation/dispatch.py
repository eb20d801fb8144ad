"""From vLLM's tensors to a launch: a cached one, or a new one that is then cached.

In eager mode the layers of a model call with the same shapes and strides, so a launch is worked out once for a layout
and cached. A call of a cached layout costs one comparison, the allocation of its outputs, and the kernel's own
launcher. A layout holds everything that a launch depends on except the addresses. Those are read at every call, since
the same tensor object may have got other memory (``tensor.data = other``, ``resize_``).
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from rope_patch.kernels import catalogue
from rope_patch.kernels.call import Call, planned
from rope_patch.kernels.launch import ALIGNMENT, Launch, device_facts
from rope_patch.kernels.planning import make_plan
from rope_patch.kernels.runner import has_launch_hooks
from rope_patch.reporting import ledger
from rope_patch.rotation.arguments import NO_MEMORY, Unsupported, parse
from rope_patch.rotation.cached_launch import CachedLaunch, Rotated, cached_launch
from rope_patch.rotation.outputs import Outputs, outputs_of
from rope_patch.trust import first_use
from rope_patch.trust.signature import signature_of

Layout = tuple[object, ...]
SHARED = "query and key share memory that would be rotated in place"
UNCHECKED = "its kernel is not among those that were checked"
MAX_CACHED = 1024  # layouts in each of the two dictionaries: new token counts never end, and a step needs few layouts

_cached: dict[Layout, CachedLaunch] = {}
_older: dict[Layout, CachedLaunch] = {}  # what ``_cached`` held when it was last full; a launch that is used moves back
# The last call's layout, which mostly is the next one's too: comparing two layouts is faster than hashing one. It is
# one tuple, so that other threads never see a layout with another one's launch.
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
    axes: str = "",
) -> Rotated | Unsupported | None:
    """Rotate plain tensors; arguments as ``rotary.serve``'s.

    A strided tensor's output is a new contiguous tensor; a contiguous one is rotated in place, unless ``always_fresh``
    is set. If the call is not served, nothing was done: ``Unsupported`` says what is wrong with the arguments, and the
    caller has to count it; None means that the kernel must not be used, and the reason is already counted.
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
    if axes:
        layout += (axes, positions.stride())
    if low % ALIGNMENT:
        layout += (q % ALIGNMENT, (k or 0) % ALIGNMENT, c % ALIGNMENT, p % ALIGNMENT)
    last, cached = _last
    if layout != last:
        cached = _look_up(layout)
    if cached is not None and q and k != 0 and c and p:
        try:
            rotated = cached(query, key, q, k, c, p)
            if rotated is not None:
                return rotated
        except Exception:  # nothing ran; launching through Triton will serve, or say what is wrong
            _cache(layout, None)
    with _current(query.device):
        call = parse(positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style, axes)
        return call if isinstance(call, Unsupported) else _rotate(layout, call, always_fresh)


def _look_up(layout: Layout) -> CachedLaunch | None:
    """The cached launch for that layout, or None. If there is one, it becomes the last call's."""
    global _last
    cached = _cached.get(layout)
    if cached is not None:
        _last = layout, cached
    elif layout in _older:
        cached = _older.get(layout)
        _cache(layout, cached)
    return cached


def _cache(layout: Layout, cached: CachedLaunch | None) -> None:
    """Cache a launch; None removes it. Two threads may overwrite each other's, which is then worked out once more."""
    global _cached, _older, _last
    if len(_cached) >= MAX_CACHED:
        _cached, _older = {}, _cached
    _last = layout, cached
    if cached is not None:
        _cached[layout] = cached
    else:
        _cached.pop(layout, None)
        _older.pop(layout, None)


def _rotate(layout: Layout, call: Call, always_fresh: bool) -> Rotated | None:
    """Serve a call without a cached launch: ask which kernels are trusted, plan, launch, and cache the launch."""
    path = "op" if always_fresh else "eager"
    query, key = call.query.tensor, call.key.tensor if call.key else None
    out = outputs_of(query, key, always_fresh)
    if out is None:
        return _hand_back(ledger.page(), SHARED)
    rotated = query if out.query is None else out.query, key if out.key is None else out.key
    num_tokens = call.num_tokens
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
    plan = make_plan(catalogue.ROTATION, shape, num_tokens, trusted.device)
    launch = planned(call, shape, plan, trusted.device)
    if not trusted.includes(launch.kernel):
        return _hand_back(page, UNCHECKED)
    error = _start(launch, call, out)
    if error:
        return _hand_back(page, first_use.launch_failed(signature, error, query.device))
    page.served[path][0] += 1
    runner = trusted.runners.get(launch.kernel)
    if runner:
        fresh = not in_place[0], key is not None and not in_place[1]
        _cache(layout, cached_launch(runner, launch, query, key, *fresh, out.spans, page.served[path]))
    return rotated


def _hand_back(page: ledger.Page, reason: str) -> Rotated | None:
    page.fallbacks[reason] += 1
    return None


def _start(launch: Launch, call: Call, out: Outputs) -> Exception | None:
    """Start the kernel through Triton. Returns the error if that fails; the tensors then are as they were.

    Launch hooks of Triton may raise after the kernel was started. If there are any, tensors that are rotated in place
    are copied first. Without hooks nothing can raise once the kernel was started.
    """
    in_place = [call.query.tensor] if out.query is None else []
    in_place += [call.key.tensor] if out.key is None and call.key else []
    copies = [tensor.clone() for tensor in in_place] if has_launch_hooks() else []
    try:
        launch.on(call, out.query, out.key)
    except Exception as error:
        for tensor, before in zip(in_place, copies, strict=False):
            tensor.copy_(before)
        return error
    return None


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` the current device, since Triton launches on that one."""
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return guard(device) if guard and device.index is not None else nullcontext()


def forget() -> None:
    """Forget all cached launches and first-use checks. For tests, and after a kernel cache was cleared."""
    forget_launches()
    first_use.forget()


def forget_launches() -> None:
    """Forget all cached launches: the next call of each layout goes through Triton."""
    global _last
    _cached.clear()
    _older.clear()
    _last = (), None
