"""What a transfer between global memory and the unified buffer looks like: bursts, and what they cost."""

import math
from dataclasses import dataclass

from scripts.model_ascend.rates import Rates


@dataclass(frozen=True)
class View:
    """Elements of a kernel argument: all in bytes, but for ``sizes``. ``offset`` is None where only data decides it."""

    argument: int
    offset: int | None
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def bytes(self) -> int:
        return math.prod(self.sizes) * self.itemsize

    def bursts(self) -> tuple[int, int, int]:
        """(number, bytes of each, bytes from one to the next): runs of adjacent addresses."""
        run, pitch, outside = self.itemsize, 0, 1
        for axis in reversed(range(len(self.sizes))):
            if self.sizes[axis] == 1:
                continue
            if outside == 1 and self.strides[axis] == run:
                run *= self.sizes[axis]
            else:
                pitch = pitch or self.strides[axis]
                outside *= self.sizes[axis]
        return outside, run, pitch

    def traffic(self, rates: Rates) -> int:
        """Bytes that HBM moves: whole lines, where the bursts lie too far apart to share them."""
        number, run, pitch = self.bursts()
        lines = -(-run // rates.line_bytes) * rates.line_bytes
        return number * max(run, min(lines, pitch or lines))

    def lines(self, rates: Rates) -> tuple[object, ...]:
        """Equal for views into the same lines, such as the two halves of the same heads."""
        _, _, pitch = self.bursts()
        if self.offset is None:
            return (object(),)
        return self.argument, self.offset // min(pitch or rates.line_bytes, rates.line_bytes), self.sizes[:-1]

    def cycles(self, rate: float, rates: Rates) -> float:
        """How long it occupies its queue."""
        _, run, pitch = self.bursts()
        aligned = not (run % rates.line_bytes or pitch % rates.line_bytes or (self.offset or 0) % rates.line_bytes)
        return rates.transfer_cycles + self.bytes / (rate if aligned else rate * rates.unaligned)
