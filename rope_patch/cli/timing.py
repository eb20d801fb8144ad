"""How long a call takes: host time by ``torch.utils.benchmark``, device time by events around a graph's replay.

``triton.testing`` is not used: it replays graphs on CUDA only, and elsewhere a short kernel's time includes its launch.
"""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

Function = Callable[[], object]
REPLAYED = "graph replay"
WITH_HOST = "calls, with the host in it"


class Time(NamedTuple):
    """The time of one call over several rounds, in microseconds."""

    median_us: float
    spread_us: float  # the distance between the quartiles


def over(rounds: list[float]) -> Time | None:
    """The rounds' median and spread; None if there were fewer than two."""
    if len(rounds) < 2:
        return None
    quartiles = statistics.quantiles(rounds, n=4)
    return Time(statistics.median(rounds), quartiles[2] - quartiles[0])


def host_us(function: Function, calls: int, device: "torch.device") -> float:
    """Microseconds of host time for one call. The device is waited for before and after the calls, not between them."""
    from torch.utils import benchmark

    synchronise = _of(device).synchronize
    synchronise()
    # benchmark's default timer would wait for CUDA. timeit() warms up with calls that it does not count, which matters
    # since the first call of a step may do more.
    took = benchmark.Timer("function()", globals={"function": function}, timer=time.perf_counter).timeit(calls)
    synchronise()
    return took.mean * 1e6


def device_us(repeated: Function, calls: int, device: "torch.device") -> float:
    """Microseconds of device time for one call, by events around ``repeated()``, which makes ``calls`` calls."""
    begin, end = (_of(device).Event(enable_timing=True) for _ in range(2))
    begin.record()
    repeated()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e3 / calls


def repeated(function: Function, calls: int, device: "torch.device") -> tuple[Function, str]:
    """A function that makes ``calls`` calls on the device, and how: by a captured graph's replay, else one by one."""
    try:
        graph = _captured(function, calls, _of(device), f"{device.type.upper()}Graph")
        graph.replay()
        _of(device).synchronize()
    except Exception:  # the call cannot be captured

        def again() -> None:
            for _ in range(calls):
                function()

        return again, WITH_HOST
    return graph.replay, REPLAYED


def _captured(function: Function, calls: int, of_device: Any, kind: str) -> Any:
    side = of_device.Stream()
    side.wait_stream(of_device.current_stream())
    with of_device.stream(side):  # allocations and compilation happen here, before the capture
        for _ in range(3):
            function()
    of_device.synchronize()
    graph = getattr(of_device, kind)()
    with of_device.graph(graph):
        for _ in range(calls):
            function()
    return graph


def _of(device: "torch.device") -> Any:
    import torch

    return getattr(torch, device.type)
