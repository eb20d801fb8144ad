"""A call whose layout has no cached launch yet, once for a layout: check, plan, launch, and cache the launch."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from rope_patch.kernels.planning import make_plan
from rope_patch.reporting import ledger
from rope_patch.serving import first_use, layouts
from rope_patch.serving.cached_launch import Results, cached_launch
from rope_patch.serving.call import Call
from rope_patch.serving.failures import after_the_start, forget_retired, launcher_failed, start
from rope_patch.serving.outputs import new_tensors, overlap

UNCHECKED = "its kernel is not among those that were checked"


def serve(call: Call, layout: layouts.Layout, path: str) -> Results | None:
    """The results; None means that the kernel must not be used: nothing was done, and the reason is counted.

    As soon as the kernel is started, the results are the answer, whatever fails later. ``path`` is the ledger's.
    """
    done: list[Results] = []
    try:
        with _current(call.device):
            return _serve(call, layout, path, done)
    except Exception as error:
        if not done:
            raise
        after_the_start(error)
        return done[0]


def _serve(call: Call, layout: layouts.Layout, path: str, done: list[Results]) -> Results | None:
    if overlap(call):
        return _hand_back(ledger.page(), call.shared)
    new = new_tensors(call)
    results = call.answer(*new)
    if not call.num_tokens:
        ledger.page().served[path][0] += 1
        return results
    signature = first_use.signature_of(call)
    page = ledger.page(signature)
    trusted = first_use.trusted(signature, call)
    if isinstance(trusted, str):
        return _hand_back(page, trusted)
    plan = make_plan(call.kernels, call.shape, call.num_tokens, trusted.device)
    launch = call.launch(plan, trusted.device)
    if not trusted.includes(launch.kernel):
        return _hand_back(page, UNCHECKED)
    served, ready = page.served[path], None
    runner = trusted.runners.get(launch.kernel)
    if runner:
        failed = partial(launcher_failed, signature, trusted, launch.kernel, call.device, bool(call.in_place))
        ready = cached_launch(runner, launch, call, served, failed)
    error = start(launch, call, new)
    if error:
        reason = first_use.launch_failed(signature, call.name, error, call.device)
        forget_retired(signature, trusted)
        return _hand_back(page, reason)
    done.append(results)
    served[0] += 1
    if ready:
        layouts.cache(layout, ready)
        forget_retired(signature, trusted)  # another thread may have retired it meanwhile
    return results


def _hand_back(page: ledger.Page, reason: str) -> Results | None:
    page.fallbacks[reason] += 1
    return None


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` the current device, since Triton launches on that one."""
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return guard(device) if guard and device.index is not None else nullcontext()
