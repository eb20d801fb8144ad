"""A compiled kernel's own launcher, without what Triton does in Python before it at every call.

Triton binds arguments, builds a cache key and looks the kernel up at each ``kernel[grid](...)``: most of what a launch
costs. Here its launcher is called with what Triton handed it the first time, but for the grid, the stream and the
kernel's arguments, tensors as integer addresses. How Triton calls its launcher is no interface; so it is not assumed
but recorded, from an ordinary launch, and where the record does not look as expected there is no launcher.

Triton's hooks around a launch (profilers) are not called by it, and so nothing can raise once the kernel was started.
While hooks are set no launcher is recorded, so that they see every launch.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

QUEUES = b"OpCommand3RunEv"  # at_npu::native::OpCommand::Run(), as linkers call it
Argument = Any  # a tensor, its address, an integer, or None


class Runner(NamedTuple):
    """What Triton's launcher takes: ``(programs, 1, 1, stream)``, ``before``, the kernel's arguments, ``after``."""

    run: Callable[..., object]
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    kernel: object  # kept alive: unloading it would leave ``run`` a dangling function
    queued: bool = False  # whether it launches by way of torch-npu's queue, and not on the stream at once

    def start(self, programs: int, stream: int, arguments: tuple[Argument, ...]) -> None:
        """Enqueue the kernel on ``stream``, which must be of the current device."""
        self.run(programs, 1, 1, stream, *self.before, *arguments, *self.after)


def hooks() -> list[Any]:
    """Triton's places for hooks before and after a launch: chains of them, or the functions, or None."""
    triton = sys.modules.get("triton")
    knobs = getattr(getattr(triton, "knobs", None), "runtime", None)  # Triton 3.4 and newer
    holder = knobs or getattr(getattr(triton, "compiler", None), "CompiledKernel", None)
    return [getattr(holder, name, None) for name in ("launch_enter_hook", "launch_exit_hook")]


def hooked() -> bool:
    """Whether somebody's hook is called around a launch; it may raise when the kernel runs already."""
    return any(getattr(place, "calls", place) for place in hooks())


def recorded(start: Callable[[], Any], programs: int, arguments: tuple[Argument, ...]) -> Runner | None:
    """The launcher of the kernel that ``start`` launches on ``arguments``, by watching it.

    None if it looks different, or hooks are set.

    ``start`` runs twice, and returns Triton's compiled kernel.
    """
    kernel = start()
    if hooked():
        return None
    name = "_run" if "_run" in getattr(kernel, "__dict__", ()) else "run"
    run = getattr(kernel, "__dict__", {}).get(name)
    if not callable(run):
        return None
    calls: list[tuple[Any, ...]] = []

    def watched(*handed: Any) -> object:
        calls.append(handed)
        return run(*handed)

    setattr(kernel, name, watched)
    try:
        start()
    finally:
        setattr(kernel, name, run)
    for handed in calls:
        for begin in range(4, len(handed) - len(arguments) + 1):
            found = handed[begin : begin + len(arguments)]
            if handed[:3] == (programs, 1, 1) and all(_same(a, b) for a, b in zip(found, arguments, strict=True)):
                places = hooks()  # empty chains would call what is added to them later
                before = tuple(None if any(a is place for place in places) else a for a in handed[4:begin])
                return Runner(run, before, handed[begin + len(arguments) :], kernel, is_queued(run))
    return None


def is_queued(run: Callable[..., object]) -> bool:
    """Whether triton-ascend's launcher hands its launches to torch-npu's queue: it is compiled to do so, or not to.

    The variable that chooses (``TRITON_ENABLE_TASKQUEUE``) may have changed since. So the launcher's library is asked:
    only one that uses the queue refers to torch-npu's command. False wherever that is not certain.
    """
    path = getattr(getattr(getattr(run, "launch", None), "__self__", None), "__file__", None)
    try:
        return path is not None and QUEUES in Path(path).read_bytes()
    except OSError:  # cleaned away since it was loaded
        return False


def _same(handed: Any, argument: Argument) -> bool:
    """Whether what Triton handed on is the argument, perhaps under another element type (``triton.reinterpret``)."""
    return handed is argument or getattr(handed, "base", handed) is argument
