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
from rope_patch.kernels.launch import Call, Kernel, device_facts
from rope_patch.kernels.plan import Device, Shape
from rope_patch.kernels.planning import plans_of
from rope_patch.kernels.runner import Runner
from rope_patch.reporting import announcement, ledger, log
from rope_patch.reporting.ledger import Signature
from rope_patch.trust import trial


class Trusted(NamedTuple):
    """A signature's kernels: right about it once, when planned for ``device``."""

    device: Device
    kernels: frozenset[Kernel] | None  # those that were right; None if nothing was checked, since that is switched off
    runners: dict[Kernel, Runner]  # those that were found; none without a check

    def includes(self, kernel: Kernel) -> bool:
        """Whether it was checked; all were where the check is switched off."""
        return self.kernels is None or kernel in self.kernels


CAPTURED = "first seen during graph capture"
NOT_POSSIBLE = "its first-use check was not possible"
ELSEWHERE = "its first-use check is going on in another thread"

_found: dict[Signature, Trusted | str] = {}
# Signatures that a thread is examining right now. Nobody waits for another: a lock that is held while kernels are
# compiled, and modules imported, could be waited for by whoever holds the lock of such an import; and a forked process
# would inherit it held. Until the check is over the original serves.
_examining: dict[Signature, object] = {}
os.register_at_fork(after_in_child=_examining.clear)


def trusted(signature: Signature, call: Call, shape: Shape, query_in_place: bool, key_in_place: bool) -> Trusted | str:
    """What may serve calls of the signature, examined at the first sight of one; or why nothing may."""
    found = _found.get(signature)
    if found is not None:
        return found
    if _capturing(call.query.tensor.device):
        return CAPTURED
    me = object()
    if _examining.setdefault(signature, me) is not me:
        return ELSEWHERE
    try:
        found = _found.get(signature)  # another thread may have been done just before
        return found or _remember(signature, _examine(signature, call, shape, query_in_place, key_in_place))
    except trial.NotNow as error:
        if NOT_POSSIBLE not in ledger.page(signature).fallbacks:
            words = ledger.words(signature)
            log.warn_once(f"rope_patch: {words}: {NOT_POSSIBLE}, and will be tried again: {error}")
        return NOT_POSSIBLE
    finally:
        _examining.pop(signature, None)


def judged(signature: Signature, error: Exception, device: torch.device) -> str:
    """What a launch that failed after all says: a reason, and no more of it if the kernel is not to blame.

    A kernel that is to blame is retired.
    """
    if _is_blameless(error, device):
        return f"could not be started: {type(error).__name__}"
    fault = _said(error)
    _remember(signature, fault)
    return fault


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
    ledger.forget()


def _remember(signature: Signature, found: Trusted | str) -> Trusted | str:
    _found[signature] = found
    page = ledger.page(signature)
    if isinstance(found, str):
        page.check = found
        log.warn_once(f"rope_patch: native rotary embedding for {ledger.words(signature)}: {found}")
    else:
        page.check = ledger.SWITCHED_OFF if found.kernels is None else ledger.PASSED
    return found


def _capturing(device: torch.device) -> bool:
    module = getattr(torch, device.type, None)
    capturing = getattr(module, "is_current_stream_capturing", None)
    return bool(capturing and capturing())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-300:]}"


def _examine(signature: Signature, call: Call, shape: Shape, query_in_place: bool, key_in_place: bool) -> Trusted | str:
    """Every plan of the call's shape; if one fails, every plan for half of the device's fast memory, once.

    Raises:
        trial.NotNow: it cannot be known now.
    """
    announcement.say()
    device = device_facts(call.query.tensor.device)
    checking = settings.current().check
    fault = ""
    for budget in (device, replace(device, tile_bytes=device.tile_bytes // 2)):
        tried: dict[Kernel, Runner | None] = {}
        try:
            plans = plans_of(shape, budget)
            ledger.page(signature).plans = [asdict(plan) for plan in plans]
            with _one_thread():
                for plan in plans if checking else ():
                    kernel, runner = trial.run(call, shape, plan, budget, query_in_place, key_in_place)
                    tried[kernel] = runner
            if fault:
                log.warn_once(f"rope_patch: smaller tiles are used, since {fault}; please report it")
            runners = {kernel: runner for kernel, runner in tried.items() if runner}
            return Trusted(budget, frozenset(tried) if checking else None, runners)
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
