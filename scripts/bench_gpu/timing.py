"""Device time by CUDA-graph replay; host time by the clock."""

import statistics
import time
from collections.abc import Callable

import torch

REPLAYS = 9


def device_us(work: Callable[[], object], launches: int) -> tuple[float, float]:
    """(median, spread) of microseconds a call, from replays of a graph of so many calls; spread: between quartiles.

    The calls follow each other on one stream and use the same memory: what fits the L2 cache is found there.
    """
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # what allocates or compiles does it outside of the capture
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            work()
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / launches)
    quartiles = statistics.quantiles(times, n=4)
    return statistics.median(times), quartiles[2] - quartiles[0]


def host_us(work: Callable[[], object], calls: int = 500, rounds: int = 7) -> float:
    """Median of microseconds of host time a call: the device is waited for between rounds, not between calls."""
    for _ in range(calls):
        work()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - begin) / calls * 1e6)
    torch.cuda.synchronize()
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of device-to-device copies of 4 GiB, by events around four of them."""
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(4):
            target.copy_(source)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 4 / 1e3)
    return 2 * source.numel() * source.element_size() / statistics.median(times)
