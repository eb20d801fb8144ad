"""Trust: a kernel serves a signature only after it was right about it once, on this device.

The engine's own warm-up proves nothing, since its positions are all zero. So the first time that a signature is seen,
each tile height it can use is run on random q and k, with positions spread over the real cache, and every lane is
compared with fp64 on the host. That also compiles the kernel before it is needed.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from rope_patch import settings
from rope_patch.kernels.launch import Call, Kernel, device_facts, planned
from rope_patch.kernels.launcher import Launcher, hooked
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import make_plan, plans_of
from rope_patch.reporting import announcement, counts, log
from rope_patch.trust import trial
from rope_patch.trust.signature import Signature, signature_of


class Trusted(NamedTuple):
    """A signature's kernels: right about it once, when planned for ``device``."""

    device: Device
    kernels: frozenset[Kernel] | None  # those that were right; None if nothing was checked, since that is switched off
    launchers: dict[Kernel, Launcher]  # those that were found; none without a check
    served: list[int]  # the count of its calls, in ``report``


CAPTURED = "first seen during graph capture"
ELSEWHERE = "its first-use check is going on in another thread"

_found: dict[Signature, Trusted | str] = {}
# Signatures that a thread is examining right now. Nobody waits for another: a lock that is held while kernels are
# compiled, and modules imported, could be waited for by whoever holds the lock of such an import; and a forked process
# would inherit it held. Until the check is over the original serves.
_examining: dict[Signature, object] = {}
os.register_at_fork(after_in_child=_examining.clear)


def launch_trusted(call: Call, query_out: torch.Tensor | None, key_out: torch.Tensor | None) -> Trusted | str:
    """Launch at least one token if the kernel is to be trusted with the call; else return why it was not launched.

    A signature is examined at first sight, and what was found is remembered. A kernel that fails to start after all is
    retired, unless that is not its fault; the tensors are as they were.
    """
    in_place = query_out is None, key_out is None
    signature = signature_of(call, device_facts(call.query.tensor.device), *in_place)
    found = _found.get(signature) or _first_use(signature, call, *in_place)
    if isinstance(found, Trusted):
        found = _launch(signature, found, call, query_out, key_out)
    if isinstance(found, str):
        counts.declined[signature, found] += 1
    return found


def _first_use(signature: Signature, call: Call, query_in_place: bool, key_in_place: bool) -> Trusted | str:
    if _capturing(call.query.tensor.device):
        return CAPTURED
    me = object()
    if _examining.setdefault(signature, me) is not me:
        return ELSEWHERE
    try:
        found = _found.get(signature)  # another thread may have been done just before
        return found or _remember(signature, _examine(signature, call, query_in_place, key_in_place))
    except trial.NotNow as error:
        reason = "its first-use check was not possible"
        if (signature, reason) not in counts.declined:
            log.warn_once(f"rope_patch: {counts.words(signature)}: {reason}, and will be tried again: {error}")
        return reason
    finally:
        _examining.pop(signature, None)


def _launch(
    signature: Signature, found: Trusted, call: Call, query_out: torch.Tensor | None, key_out: torch.Tensor | None
) -> Trusted | str:
    plan = make_plan(call.shape(query_out is not None or key_out is not None), call.positions.numel(), found.device)
    work = planned(call, plan, found.device)
    if found.kernels is not None and work.kernel not in found.kernels:
        return "its kernel is not among those that were checked"
    restore = _kept(call, query_out, key_out) if hooked() else []
    try:
        work.on(call, query_out, key_out)
    except Exception as error:
        for tensor, before in restore:
            tensor.copy_(before)
        if _is_blameless(error, call.query.tensor.device):
            return f"could not be started: {type(error).__name__}"
        return _remember(signature, _said(error))
    counts.served[signature][0] += 1
    return found


def _kept(
    call: Call, query_out: torch.Tensor | None, key_out: torch.Tensor | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What would be rotated in place, and a copy: a hook of Triton's may raise when the kernel runs already.

    Without hooks nothing is raised after a launch.
    """
    tensors = [call.query.tensor] if query_out is None else []
    tensors += [call.key.tensor] if key_out is None and call.key else []
    return [(tensor, tensor.clone()) for tensor in tensors]


def _is_blameless(error: Exception, device: torch.device) -> bool:
    """Whether ``error`` is not the kernel's fault: no memory was left, or the device had failed before."""
    if _is_memory(error):
        return True
    synchronize = getattr(getattr(torch, device.type, None), "synchronize", None)
    if synchronize is None or _capturing(device):  # in a capture a device cannot be waited for
        return False
    try:
        synchronize(device)
    except Exception:
        return True
    return False


def forget() -> None:
    """Check every signature anew, for tests and after a kernel cache was cleared."""
    _found.clear()
    counts.signatures.clear()
    counts.served.clear()
    counts.declined.clear()
    counts.plans.clear()


def _remember(signature: Signature, found: Trusted | str) -> Trusted | str:
    _found[signature] = found
    words = counts.words(signature)
    counts.signatures[words] = None if isinstance(found, Trusted) else found
    if isinstance(found, str):
        log.warn_once(f"rope_patch: native rotary embedding for {words}: {found}")
    return found


def _capturing(device: torch.device) -> bool:
    module = getattr(torch, device.type, None)
    capturing = getattr(module, "is_current_stream_capturing", None)
    return bool(capturing and capturing())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-300:]}"


def _examine(signature: Signature, call: Call, query_in_place: bool, key_in_place: bool) -> Trusted | str:
    """Every plan of the call's shape; if one fails, every plan for half of the device's fast memory, once.

    Raises:
        trial.NotNow: it cannot be known now.
    """
    announcement.say()
    device = device_facts(call.query.tensor.device)
    checking = settings.current().check
    fault = ""
    for budget in (device, replace(device, tile_bytes=device.tile_bytes // 2)):
        tried: dict[Kernel, Launcher | None] = {}
        try:
            plans = plans_of(call.shape(not (query_in_place and key_in_place)), budget)
            counts.plans[signature] = [asdict(plan) for plan in plans]
            with _one_thread():
                tried.update(trial.run(call, plan, budget, query_in_place, key_in_place) for plan in plans if checking)
            if fault:
                log.warn_once(f"rope_patch: smaller tiles are used, since {fault}; please report it")
            launchers = {kernel: launcher for kernel, launcher in tried.items() if launcher}
            return Trusted(budget, frozenset(tried) if checking else None, launchers, counts.served[signature])
        except trial.NotNow:
            raise
        except trial.Wrong as error:
            fault = fault or str(error)
        except Exception as error:  # a compile failure, an overflowing unified buffer, an internal that moved
            if _is_memory(error):
                raise trial.NotNow(_said(error)) from error
            fault = fault or _said(error)
    return fault


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error).lower()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on the host without PyTorch's pool of threads: a forked process has none, and would wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
