"""A call whose layout has no cached launch yet, once for a layout: check, plan, launch, and cache the launch."""

from functools import partial

from rope_patch.kernels.planning import make_plan
from rope_patch.kernels.shortcuts import current
from rope_patch.reporting import ledger
from rope_patch.serving import first_use, layouts
from rope_patch.serving.cached_launch import Results, cached_launch
from rope_patch.serving.call import Call, clash, new_tensors, overlap
from rope_patch.serving.failures import after_the_start, forget_retired, launcher_failed, start

UNCHECKED = "its kernel is not among those that were checked"


def serve(call: Call, layout: layouts.Layout, path: str) -> Results | None:
    """The results; None means that the kernel must not be used: nothing was done, and the reason is counted.

    As soon as the kernel is started, the results are the answer, whatever fails later. ``path`` is the ledger's.
    """
    done: list[Results] = []
    try:
        return _serve(call, layout, path, done)
    except Exception as error:
        if not done:
            raise
        after_the_start(error)
        return done[0]


def _serve(call: Call, layout: layouts.Layout, path: str, done: list[Results]) -> Results | None:
    written, results, num_tokens, device = call.written, call.results, call.num_tokens, call.device
    with current(device):
        clashing = clash(written, results)
        if overlap(written, clashing):
            return _hand_back(ledger.page(), call.shared)
        new, in_place = new_tensors(results, device), call.in_place
        answer = call.answer(*new)
        if not num_tokens:
            ledger.page().served[path][0] += 1
            return answer
        signature, trusted = first_use.checked(call)
        page = ledger.page(signature)
        if isinstance(trusted, str):
            return _hand_back(page, trusted)
        plan = make_plan(call.kernels, call.shape, num_tokens, trusted.device)
        launch = call.launch(plan, trusted.device)
        if trusted.constants is not None and trusted.constants.get(plan) != launch.constants:
            return _hand_back(page, UNCHECKED)
        served, runner, ready = page.served[path], trusted.runners.get(plan), None
        once = [] if call.again else in_place
        if runner:
            failed = partial(launcher_failed, signature, trusted, plan, device, bool(once))
            ready = cached_launch(runner, launch, call, clashing, served, failed)
        error = start(launch, call, new, once)
        if error:
            reason = first_use.launch_failed(signature, call.name, error, device)
            forget_retired(signature, trusted)
            return _hand_back(page, reason)
        done.append(answer)
        served[0] += 1
        if ready:
            layouts.cache(layout, ready)
            if first_use.results.get(signature) is not trusted:  # another thread has retired it meanwhile
                layouts.forget()
        return answer


def _hand_back(page: ledger.Page, reason: str) -> Results | None:
    page.fallbacks[reason] += 1
    return None
