"""How long a call takes: the host by ``torch.utils.benchmark``, the device by events around a captured graph's replay.

``triton.testing`` replays graphs on CUDA only, and elsewhere times short kernels with the host's launch in it.
"""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

Work = Callable[[], object]
REPLAYED = "graph replay"
WITH_HOST = "calls, with the host in it"


class Time(NamedTuple):
    """Of one call, over rounds, in microseconds."""

    median_us: float
    spread_us: float  # between the quartiles


def over(rounds: list[float]) -> Time | None:
    """The rounds' median and spread; None if there were fewer than two."""
    if len(rounds) < 2:
        return None
    quartiles = statistics.quantiles(rounds, n=4)
    return Time(statistics.median(rounds), quartiles[2] - quartiles[0])


def host_us(work: Work, calls: int, device: "torch.device") -> float:
    """Microseconds of host time a call: the device is waited for before and after, not between."""
    from torch.utils import benchmark

    synchronise = _of(device).synchronize
    synchronise()
    # Its own timer would wait for CUDA. It calls twice and more before it measures: a step's first call may do more.
    took = benchmark.Timer("work()", globals={"work": work}, timer=time.perf_counter).timeit(calls)
    synchronise()
    return took.mean * 1e6


def device_us(repeated: Work, calls: int, device: "torch.device") -> float:
    """Microseconds of device time a call, by events around ``repeated``, which makes so many calls."""
    begin, end = (_of(device).Event(enable_timing=True) for _ in range(2))
    begin.record()
    repeated()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e3 / calls


def repeated(work: Work, calls: int, device: "torch.device") -> tuple[Work, str]:
    """What makes the device do ``calls`` calls, and how: a captured graph's replay, or, failing that, the calls."""
    try:
        graph = _captured(work, calls, _of(device), f"{device.type.upper()}Graph")
        graph.replay()
        _of(device).synchronize()
    except Exception:  # something in it cannot be captured

        def again() -> None:
            for _ in range(calls):
                work()

        return again, WITH_HOST
    return graph.replay, REPLAYED


def _captured(work: Work, calls: int, of_device: Any, kind: str) -> Any:
    side = of_device.Stream()
    side.wait_stream(of_device.current_stream())
    with of_device.stream(side):  # what allocates or compiles does it outside of the capture
        for _ in range(3):
            work()
    of_device.synchronize()
    graph = getattr(of_device, kind)()
    with of_device.graph(graph):
        for _ in range(calls):
            work()
    return graph


def _of(device: "torch.device") -> Any:
    import torch

    return getattr(torch, device.type)
