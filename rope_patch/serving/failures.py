"""A launch that fails: who serves then, and that no tensor is written twice."""

from contextlib import suppress
from typing import NoReturn

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.plan import Plan
from rope_patch.kernels.runner import has_launch_hooks
from rope_patch.reporting import ledger, log
from rope_patch.reporting.ledger import Signature
from rope_patch.serving import first_use, layouts
from rope_patch.serving.call import Call, Tensors
from rope_patch.serving.first_use import Trusted


class NotStarted(Exception):
    """A cached launch failed before it started its kernel. The reason is counted; the original serves."""


class MayHaveStarted(Exception):
    """A launch in place ended in ``error``, perhaps after the kernel was started, so nobody may compute it again.

    As with any operator that fails halfway, the error goes to the caller.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def start(launch: Launch, call: Call, new: Tensors, in_place: list[torch.Tensor]) -> Exception | None:
    """Start the kernel through Triton. Returns the error if that fails; the tensors then are as they were.

    Launch hooks of Triton may raise after the kernel was started. If there are any, tensors that are written in place
    are copied first. Without hooks Triton raises nothing once the kernel was started.
    """
    copies = [tensor.clone() for tensor in in_place] if in_place and has_launch_hooks() else []
    try:
        launch.on(call, *new)
    except Exception as error:
        try:
            for tensor, before in zip(in_place, copies, strict=False):
                tensor.copy_(before)
        except Exception:
            raise MayHaveStarted(error) from error
        return error
    return None


def launcher_failed(
    signature: Signature,
    trusted: Trusted,
    plan: Plan,
    device: torch.device,
    in_place: bool,
    error: Exception,
    may_have_started: bool,
) -> NoReturn:
    """Count and say that a cached launch raised ``error``. If its launcher is to blame, it is not used any more.

    A launcher that cannot read its arguments, or finds no memory, has started nothing. Anything else may have come
    after the start: from a signal's handler, or from the driver.
    """
    in_doubt = in_place and may_have_started and not (isinstance(error, TypeError) or first_use.is_memory(error))
    with suppress(Exception):
        reason = first_use.launcher_failed(signature, plan, error, device)
        forget_retired(signature, trusted)
        ledger.page(signature).fallbacks[f"{reason}, which the caller got" if in_doubt else reason] += 1
    raise MayHaveStarted(error) if in_doubt else NotStarted from error


def forget_retired(signature: Signature, trusted: Trusted) -> None:
    """Forget cached launches if one of these kernels, or its launcher, is not to be used any more.

    All of them, since it is rare: each layout's next call works its launch out once more.
    """
    if first_use.results.get(signature) is not trusted:
        layouts.forget()


def after_the_start(error: Exception) -> None:
    """Say what failed although a kernel was started, whose result is the answer."""
    with suppress(Exception):
        words = "rope_patch: failed after the kernel was started, which serves all the same"
        log.warn_once(f"{words}: {type(error).__name__}: {error} (traceback at level DEBUG)")
        log.logger.debug("rope_patch: failed after the kernel was started", exc_info=error)
