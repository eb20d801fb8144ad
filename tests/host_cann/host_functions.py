"""Operators that an ACL graph can hold: while a stream is captured, or replaces the tasks of a graph's task group, what
the CPU computes becomes a host function of that stream (``aclrtLaunchHostFunc``), which each replay runs again over the
same memory.

Switched on by ``use()``; otherwise such an operator is refused in a capture, as a synchronisation is. Start the process
with ``TASK_QUEUE_ENABLE=0``: a host function goes to the stream at once, and torch-npu's queue would bring what was
called before it there later. What a host function raises is kept, and ``check()`` raises it.
"""

import ctypes
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from . import operators

Function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
counts: Counter[str] = Counter()  # "captured", "replayed"
_kept: list[Any] = []  # kept alive, since a graph may be replayed as long as the process lives
_failures: list[BaseException] = []


def use() -> None:
    operators.recorder = recorder


def recorder() -> operators.Recorder | None:
    keeps = ctypes.CDLL("libascendcl.so").host_cann_keeps_tasks
    keeps.argtypes = [ctypes.c_void_p]
    return record if keeps(torch.npu.current_stream().npu_stream) else None


def check() -> None:
    if _failures:
        raise _failures[0]


def record(function: Callable[..., Any], args: Any, kwargs: Any, updated: Any = None) -> Any:
    """``function`` of host views, at every replay. ``updated`` is what it gives back if it only updates arguments; else
    it runs once now as well, for the shapes of its results."""
    given: dict[int, torch.Tensor] = {}

    def view(value: Any) -> Any:
        host = operators.on_host(value)
        if host is not value:
            given[id(host)] = value
        return host

    args, kwargs = tree_map(view, args), tree_map(view, kwargs)
    if updated is not None:
        _launch(lambda: function(*args, **kwargs))
        return updated
    places: list[torch.Tensor] = []

    def place(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or id(value) in given:
            return given.get(id(value), value)
        result = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="npu")
        places.append(operators.host_view(result))
        return result

    results = tree_map(place, function(*args, **kwargs))
    arguments = frozenset(given)  # not the tensors, whose memory a graph gives back when it is destroyed

    def work() -> None:
        again = [v for v in tree_flatten(function(*args, **kwargs))[0] if isinstance(v, torch.Tensor)]
        for to, value in zip(places, [v for v in again if id(v) not in arguments], strict=True):
            to.copy_(value)

    _launch(work)
    return results


def _launch(work: Callable[[], Any]) -> None:
    def call(_: object) -> None:
        try:
            counts["replayed"] += 1
            work()
        except BaseException as error:  # an exception cannot pass through C
            _failures.append(error)

    function = Function(call)
    _kept.append(function)
    counts["captured"] += 1
    launch = ctypes.CDLL("libascendcl.so").aclrtLaunchHostFunc
    launch.argtypes = [ctypes.c_void_p, Function, ctypes.c_void_p]
    code = launch(torch.npu.current_stream().npu_stream, function, None)
    if code:
        raise RuntimeError(f"aclrtLaunchHostFunc: {code}")
