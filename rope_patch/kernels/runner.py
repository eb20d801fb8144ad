"""Starts a compiled kernel by its own launcher, without the Python that Triton runs before it at every call.

At each ``kernel[grid](...)`` Triton binds arguments, builds a cache key and looks the kernel up. That is most of what a
launch costs. Here the kernel's launcher is called directly, with the arguments that Triton gave it the first time; only
the grid, the stream and the kernel's own arguments are new, tensors as integer addresses. How Triton calls the launcher
is not a public interface. So it is recorded from an ordinary launch, and if the record does not look as expected,
kernels are started through Triton.

This way does not call Triton's launch hooks (profilers), so nothing can raise once the kernel was started. While hooks
are set nothing is recorded, so that they see every launch.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

QUEUES = b"OpCommand3RunEv"  # the linker symbol of at_npu::native::OpCommand::Run()
Argument = Any  # a tensor, its address, an integer, or None


class Runner(NamedTuple):
    """``run``, Triton's launcher, takes ``programs, 1, 1, stream, *before``, the kernel's arguments, ``*after``."""

    run: Callable[..., object]
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    kernel: object  # a reference that keeps the compiled kernel loaded, since ``run`` needs it
    queued: bool = False  # whether it launches through torch-npu's task queue, or directly on the stream

    def start(self, programs: int, stream: int, arguments: tuple[Argument, ...]) -> None:
        """Enqueue the kernel on ``stream``, which must belong to the current device."""
        self.run(programs, 1, 1, stream, *self.before, *arguments, *self.after)


def launch_hooks() -> list[Any]:
    """Triton's hooks before and after a launch: each a chain of hooks, one function, or None."""
    triton = sys.modules.get("triton")
    knobs = getattr(getattr(triton, "knobs", None), "runtime", None)  # Triton 3.4 and newer
    holder = knobs or getattr(getattr(triton, "compiler", None), "CompiledKernel", None)
    return [getattr(holder, name, None) for name in ("launch_enter_hook", "launch_exit_hook")]


def has_launch_hooks() -> bool:
    """Whether a hook is set that Triton calls around a launch. It may raise after the kernel was started."""
    return any(getattr(place, "calls", place) for place in launch_hooks())


def recorded(start: Callable[[], Any], programs: int, arguments: tuple[Argument, ...]) -> Runner | None:
    """Record how Triton calls the launcher while ``start`` launches a kernel on ``arguments``.

    ``start`` is called twice and must return Triton's compiled kernel. Returns None if the call does not look as
    expected, or if launch hooks are set.
    """
    kernel = start()
    if has_launch_hooks():
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
                places = launch_hooks()  # an empty chain would call hooks that are added to it later
                before = tuple(None if any(a is place for place in places) else a for a in handed[4:begin])
                return Runner(run, before, handed[begin + len(arguments) :], kernel, is_queued(run))
    return None


def is_queued(run: Callable[..., object]) -> bool:
    """Whether triton-ascend's launcher puts its launches into torch-npu's task queue.

    That was decided by ``TRITON_ENABLE_TASKQUEUE`` when the launcher was compiled; the variable may have changed since.
    So the launcher's library is read: only one that uses the queue refers to torch-npu's command. False if unsure.
    """
    path = getattr(getattr(getattr(run, "launch", None), "__self__", None), "__file__", None)
    try:
        return path is not None and QUEUES in Path(path).read_bytes()
    except OSError:  # deleted since it was loaded
        return False


def _same(handed: Any, argument: Argument) -> bool:
    """Whether Triton passed on this argument, perhaps with another element type (``triton.reinterpret``)."""
    return handed is argument or getattr(handed, "base", handed) is argument
