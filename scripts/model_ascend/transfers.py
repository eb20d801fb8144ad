"""What one transfer between global memory and the unified buffer asks of the memory, and how long it keeps its pipe."""

import functools
from dataclasses import dataclass

from scripts.model_ascend.costs import Costs

PARTS = (128, 256)  # bytes of a request that is not a whole line


@dataclass(frozen=True)
class Requests:
    bursts: int  # runs of adjacent bytes
    traffic: int  # bytes that the memory moves for it: whole requests


@functools.lru_cache(maxsize=1 << 16)
def requests(offset: int, pitch: int, bursts: int, burst_bytes: int, line: int = 512) -> Requests:
    """Of so many bursts, one every ``pitch`` bytes, the first ``offset`` bytes into its line.

    A burst is cut where lines begin. A short one asks for 128, 256 or 512 bytes of each line; a longer one for whole
    lines: of 2048 bytes that begin anywhere the samples move as many a second as of five lines, not four.
    """
    if pitch == burst_bytes:
        bursts, burst_bytes = 1, bursts * burst_bytes
    # Where bursts begin in their lines repeats after at most 512 of them.
    starts = [(offset + n * pitch) % line for n in range(min(bursts, line))]
    each = [_burst(start, burst_bytes, line) for start in starts]
    whole, rest = divmod(bursts, len(each))
    return Requests(bursts, whole * sum(each) + sum(each[:rest]))


@functools.cache
def _burst(start: int, length: int, line: int) -> int:
    end = start + length
    if length > line:
        return (-(-end // line) - start // line) * line
    pieces = [min(end, line) - start, max(0, end - line)]
    return sum(next((part for part in PARTS if piece <= part), line) for piece in pieces if piece)


def load_cycles(asked: Requests, costs: Costs) -> float:
    """How long a load keeps its pipe; its data are there ``load_latency`` later."""
    return costs.load_cycles + asked.bursts * costs.load_burst_cycles + asked.traffic / costs.load_rate


def store_cycles(asked: Requests, costs: Costs) -> float:
    return costs.store_cycles + asked.bursts * costs.store_burst_cycles + asked.traffic / costs.store_rate
