"""From vLLM's tensors to a launch: a cached one, or a new one that is then cached.

In eager mode the layers of a model call with the same shapes and strides, so a launch is worked out once for a layout
and cached. A call of a cached layout costs one comparison, the allocation of its outputs, and the kernel's own
launcher. A layout holds everything that a launch depends on except the addresses. Those are read at every call, since
the same tensor object may have got other memory (``tensor.data = other``, ``resize_``).
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from rope_patch.kernels import catalogue
from rope_patch.kernels.call import Call, planned
from rope_patch.kernels.launch import ALIGNMENT, device_facts
from rope_patch.kernels.planning import make_plan
from rope_patch.reporting import ledger
from rope_patch.rotation import layouts
from rope_patch.rotation.arguments import Unsupported, parse
from rope_patch.rotation.cached_launch import Rotated, cached_launch
from rope_patch.rotation.failures import NotStarted, after_the_start, forget_retired, launcher_failed, start
from rope_patch.rotation.memory import LOWEST, NO_MEMORY
from rope_patch.rotation.outputs import outputs_of
from rope_patch.trust import first_use
from rope_patch.trust.signature import signature_of

SHARED = "query and key share memory that would be rotated in place"
UNCHECKED = "its kernel is not among those that were checked"


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
        return Unsupported(TypeError, NO_MEMORY)
    layout: layouts.Layout
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
    last, cached = layouts.last
    if layout != last:
        cached = layouts.look_up(layout)
    # What else ``memory.py`` asks it asked when the layout was new; each answer takes as long as four addresses.
    if cached is not None and q > LOWEST and c > LOWEST and p > LOWEST and (k is None or k > LOWEST):
        try:
            rotated = cached(query, key, q, k, c, p)
        except NotStarted:
            return None
        if rotated is not None:
            return rotated
    done: list[Rotated] = []
    try:
        with _current(query.device):
            call = parse(positions, query, key, cos_sin_cache, head_size, rotary_dim, is_neox_style, axes)
            return call if isinstance(call, Unsupported) else _rotate(layout, call, always_fresh, done)
    except Exception as error:
        if not done:
            raise
        after_the_start(error)
        return done[0]


def _rotate(layout: layouts.Layout, call: Call, always_fresh: bool, done: list[Rotated]) -> Rotated | None:
    """Serve a call without a cached launch: ask which kernels are trusted, plan, launch, and cache the launch.

    As soon as the kernel is started, the result is put into ``done``: whatever fails later, it is the answer.
    """
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
    served, ready = page.served[path], None
    runner = trusted.runners.get(launch.kernel)
    if runner:
        fresh = not in_place[0], key is not None and not in_place[1]
        any_in_place = not fresh[0] or (key is not None and not fresh[1])
        failed = partial(launcher_failed, signature, trusted, launch.kernel, query.device, any_in_place)
        ready = cached_launch(runner, launch, query, key, *fresh, out.spans, served, failed)
    error = start(launch, call, out)
    if error:
        reason = first_use.launch_failed(signature, error, query.device)
        forget_retired(signature, trusted)
        return _hand_back(page, reason)
    done.append(rotated)
    served[0] += 1
    if ready:
        layouts.cache(layout, ready)
        forget_retired(signature, trusted)  # another thread may have retired it meanwhile
    return rotated


def _hand_back(page: ledger.Page, reason: str) -> Rotated | None:
    page.fallbacks[reason] += 1
    return None


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` the current device, since Triton launches on that one."""
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return guard(device) if guard and device.index is not None else nullcontext()


def forget() -> None:
    """Forget all cached launches and first-use checks. For tests, and after a kernel cache was cleared."""
    layouts.forget()
    first_use.forget()
