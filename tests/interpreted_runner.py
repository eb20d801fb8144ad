"""A double of a compiled kernel's launcher, for Triton's interpreter, which has none.

With it ``rope_patch.serving`` caches launches on a CPU too. As with a compiled kernel, tensors are passed as
integer addresses.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rope_patch.kernels import runner
from rope_patch.kernels.launch import INTERPRETED, Launch
from rope_patch.serving import cached_launch, trial


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every kernel a launcher. Does nothing if Triton compiles, since compiled kernels have one."""
    if not INTERPRETED:
        return
    launches: list[Launch] = []
    right = Launch.on

    def noted(launch: Launch, *rest: Any) -> Any:
        launches.append(launch)
        return right(launch, *rest)

    monkeypatch.setattr(Launch, "on", noted)

    def recorded(start: Callable[[], Any], programs: int, arguments: tuple[Any, ...]) -> runner.Runner:
        start()
        function, constants = launches[-1].function, launches[-1].constants
        dtypes = [None if t is None else t.dtype for t in arguments if not isinstance(t, int)]
        count = len(dtypes)

        def run(programs: int, y: int, z: int, stream: int, *handed: Any) -> None:
            pointers = [None if a is None else _pointer(a, t) for a, t in zip(handed[:count], dtypes, strict=True)]
            function[(programs,)](*pointers, *handed[count:], **constants)

        return runner.Runner(run, (), (), None)

    monkeypatch.setattr(runner, "recorded", recorded)
    monkeypatch.setattr(cached_launch, "device_getter", lambda kind: lambda: None)
    for module in (cached_launch, trial):
        monkeypatch.setattr(module, "stream_getter", lambda kind, queued: lambda index: 0)


def _pointer(address: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of one element at ``address``; the interpreter needs only its address and dtype."""
    return torch.frombuffer((ctypes.c_char * dtype.itemsize).from_address(address), dtype=dtype)
