"""What stands in the place of a Triton kernel that is a module's global, and is started like it."""

import functools
from collections.abc import Callable
from typing import Any

from rope_patch.patching.replacement import IsOn
from rope_patch.reporting import ledger, log


class StandIn:
    """``serve`` takes the kernel's arguments, and says whether it did the kernel's work. Else the kernel is started: so
    it must be possible to do that work twice. If ``serve`` raises, the arguments are of an unforeseen kind."""

    def __init__(self, kernel: Any, is_on: IsOn, serve: Callable[..., bool]) -> None:
        self._kernel, self._is_on, self._serve = kernel, is_on, serve

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return functools.partial(self._start, grid)

    def _start(self, grid: Any, *arguments: Any, **named: Any) -> Any:
        try:
            if self._is_on() and self._serve(*arguments, **named):
                return None
        except Exception as error:
            reason = f"arguments of another kind: {type(error).__name__}"
            ledger.page().fallbacks[reason] += 1
            log.warn_once(f"rope_patch: a call goes to the original: {reason} (traceback at level DEBUG)")
            log.logger.debug("rope_patch: a call goes to the original", exc_info=True)
        return self._kernel[grid](*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a kernel."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._kernel, name)


def function_of(kernel: Any) -> Any:
    """The Python function that a Triton kernel was made of."""
    while not hasattr(kernel, "__code__") and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return kernel
