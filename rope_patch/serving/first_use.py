"""The first-use check: a kernel serves a signature only after it was right for that signature on this device.

The engine's own warm-up proves nothing: its positions are all zero, say. So the first time that a signature is seen,
the kernel of each of its plans is run on the operator's synthetic tensors, and every element of what it writes is
compared with fp64 on the host. That also compiles the kernels before they are needed.
"""

import os
import time
from dataclasses import replace
from typing import NamedTuple

import torch

from rope_patch import settings
from rope_patch.kernels.launch import device_facts
from rope_patch.kernels.plan import Constant, Device, Plan
from rope_patch.kernels.planning import plans_of
from rope_patch.kernels.runner import Runner
from rope_patch.reporting import announcement, ledger, log
from rope_patch.reporting.ledger import Signature
from rope_patch.serving import trial
from rope_patch.serving.call import Call
from rope_patch.serving.one_thread import one_thread
from rope_patch.serving.sample import NotNow


class Trusted(NamedTuple):
    """The plans that may serve a signature. They were made for ``device``."""

    device: Device
    constants: dict[Plan, dict[str, Constant]] | None  # of the kernels that passed; None if the check is switched off
    runners: dict[Plan, Runner]  # their own launchers, where one was found; empty if the check is switched off


CAPTURED = "first seen during graph capture"
NOT_POSSIBLE = "its first-use check was not possible"
ELSEWHERE = "its first-use check is going on in another thread"
LAUNCHER_FAILED = "its kernel's own launcher failed"
FIRST_WAIT, LONGEST_WAIT = 1 / 64, 1.0  # seconds from a check that was not possible to the next try

results: dict[Signature, Trusted | str] = {}
# Signatures whose check was not possible: when it may be tried again, and the wait that ends then. Each try makes
# tensors and waits for the device, which every layer's call would do while vLLM sleeps, say.
_waiting: dict[Signature, tuple[float, float]] = {}
clock = time.monotonic
# Signatures that a thread is checking right now. Other threads do not wait; the original serves their calls until the
# check is over. A lock would be held while kernels are compiled and modules imported: a thread that holds the lock of
# such an import could wait for it forever, and a forked process would inherit it locked.
_examining: dict[Signature, object] = {}
os.register_at_fork(after_in_child=_examining.clear)


def checked(call: Call) -> tuple[Signature, Trusted | str]:
    """The call's signature, and the plans that may serve it, or why none may.

    Calls of one signature share kernels, so they share one check, which tries all plans.
    """
    signature = (*call.words(device_facts(call.device)), call.device)
    return signature, results.get(signature) or trusted(signature, call)


def trusted(signature: Signature, call: Call) -> Trusted | str:
    """What a signature that was not checked yet gets now."""
    if _capturing(call.device):
        return CAPTURED
    until, wait = _waiting.get(signature, (0.0, 0.0))
    if clock() < until:
        return NOT_POSSIBLE
    me = object()
    if _examining.setdefault(signature, me) is not me:
        return ELSEWHERE
    try:
        found = results.get(signature)  # another thread may have finished just before
        found = found or _remember(signature, call.name, _examine(signature, call))
        _waiting.pop(signature, None)
        return found
    except NotNow as error:
        wait = min(2 * wait, LONGEST_WAIT) or FIRST_WAIT
        _waiting[signature] = clock() + wait, wait
        if NOT_POSSIBLE not in ledger.page(signature).fallbacks:
            words = ledger.name_of(signature)
            log.warn_once(f"rope_patch: {words}: {NOT_POSSIBLE}, and will be tried again: {error}")
        return NOT_POSSIBLE
    finally:
        _examining.pop(signature, None)


def launch_failed(signature: Signature, name: str, error: Exception, device: torch.device) -> str:
    """The reason to count for a launch that failed although its kernel had passed the check.

    If the kernel is to blame, its signature is served natively from now on.
    """
    if _is_blameless(error, device):
        return f"could not be started: {type(error).__name__}"
    fault = _said(error)
    _remember(signature, name, fault)
    return fault


def launcher_failed(signature: Signature, plan: Plan, error: Exception, device: torch.device) -> str:
    """The reason to count for a kernel's own launcher that failed although it had passed the check.

    If it is to blame, Triton starts that kernel from now on, for all calls of its signature.
    """
    if _is_blameless(error, device):
        return f"could not be started: {type(error).__name__}"
    found = results.get(signature)
    if isinstance(found, Trusted) and plan in found.runners:
        runners = {other: runner for other, runner in found.runners.items() if other != plan}
        results[signature] = found._replace(runners=runners)
        words = f"rope_patch: {ledger.name_of(signature)}: {LAUNCHER_FAILED}, and Triton starts it from now on"
        log.warn_once(f"{words}: {_said(error)}")
    return f"{LAUNCHER_FAILED}: {type(error).__name__}"


def _is_blameless(error: Exception, device: torch.device) -> bool:
    """Whether ``error`` is not the kernel's fault: no memory was left, or the device had failed before."""
    if is_memory(error):
        return True
    synchronize = getattr(getattr(torch, device.type, None), "synchronize", None)
    if synchronize is None or _capturing(device):  # a device cannot be waited for during capture
        return False
    try:
        synchronize(device)
    except Exception:
        return True
    return False


def is_memory(error: Exception) -> bool:
    """Whether no memory was left; nothing was started then."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def forget() -> None:
    """Forget all checks and counts, so that every signature is checked again. For tests; see ``dispatch.forget``."""
    results.clear()
    _waiting.clear()
    ledger.forget()


def _remember(signature: Signature, name: str, found: Trusted | str) -> Trusted | str:
    results[signature] = found
    page = ledger.page(signature)
    if isinstance(found, str):
        page.check = found
        log.warn_once(f"rope_patch: native {name} for {ledger.name_of(signature)}: {found}")
    else:
        page.check = ledger.SWITCHED_OFF if found.constants is None else ledger.PASSED
    return found


def _capturing(device: torch.device) -> bool:
    module = getattr(torch, device.type, None)
    capturing = getattr(module, "is_current_stream_capturing", None)
    return bool(capturing and capturing())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-300:]}"


def _examine(signature: Signature, call: Call) -> Trusted | str:
    """Check every plan of the call's shape. If one fails, check once more with plans for half of the fast memory.

    Raises:
        NotNow: the check is not possible now.
    """
    announcement.announce()
    device = device_facts(call.device)
    checking = settings.current().check
    fault = ""
    for budget in (device, replace(device, tile_bytes=device.tile_bytes // 2)):
        tried: dict[Plan, tuple[dict[str, Constant], Runner | None]] = {}
        try:
            plans = plans_of(call.kernels, call.shape, budget)
            ledger.page(signature).plans = [plan.facts() for plan in plans]
            with one_thread():
                for plan in plans if checking else ():
                    tried[plan] = trial.run(call, plan, budget)
            if fault:
                log.warn_once(f"rope_patch: smaller tiles are used, since {fault}; please report it")
            constants = {plan: found for plan, (found, _) in tried.items()} if checking else None
            return Trusted(budget, constants, {plan: runner for plan, (_, runner) in tried.items() if runner})
        except NotNow:
            raise
        except trial.Unsteady as error:
            return str(error)
        except trial.Wrong as error:
            fault = fault or str(error)
        except Exception as error:  # a compile failure, an overflow of the unified buffer, a changed internal of Triton
            if is_memory(error):
                raise NotNow(_said(error)) from error
            fault = fault or _said(error)
    return fault
