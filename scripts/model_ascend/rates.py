"""The model's rates: what vendors publish, what was assumed, and what was fitted to published times. None was measured.

Frozen: they came in a commit of the model and its calibration alone, before any use of it. A new calibration is a
commit of its own again, with the table of ``published.py`` before and after; never in one with a change of a kernel.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Of one chip. Cycles are of its own clock; rates are bytes a cycle and a core unless they say otherwise."""

    name: str
    vector_cores: int
    cycles_per_us: float
    hbm_bytes_per_us: float  # of the whole chip, reads and writes together

    # CANN's platform configuration files.
    load_rate: float = 32.0  # global memory to unified buffer
    store_rate: float = 64.0  # unified buffer to global memory
    vector_bytes: int = 256  # one vector instruction's reach, a cycle
    line_bytes: int = 512  # of global memory; the unit that HBM moves
    block_bytes: int = 32  # of unified buffer

    # CANN's guide: a burst that is not whole aligned lines can fall to 70% of the rate.
    unaligned: float = 0.7
    # CANN's guide: near the peak from 16 KiB. Assumed to mean 90% of it, so that a transfer occupies its queue for a
    # ninth of 16 KiB's time besides its own.
    transfer_cycles: float = 57.0

    # Assumed; no source.
    issue_cycles: float = 8.0  # of the scalar unit, for each instruction that it hands to another queue
    scalar_cycles: float = 2.0  # of one scalar operation
    unified_read_cycles: float = 30.0  # of one scalar read of the unified buffer
    interleave_passes: float = 4.0  # over the data, to part or join pairs
    reduce_passes: float = 3.0  # over the data, to sum its rows

    # Fitted to the rows of ``published.py`` that say so. The start: so that the smallest kernel takes 2.3 us on one
    # core and 3.1 us on 40, the two ends of what is published. The other two: a grid of 500 to 1600 and 5 to 30 cycles,
    # by the squares of the errors' logarithms; the minimum is flat (0.308 at 1200 and 10, 0.313 here), so that either
    # could be a third off, and of two like ones the one nearer the floor of small kernels was taken.
    latency_cycles: float = 1100.0  # from a transfer's end to its data being of use to another queue
    vector_cycles: float = 10.0  # before the first result of a vector instruction
    start_us: float = 0.98  # of a kernel on one core, before and after its work
    start_us_per_core: float = 0.0205


# Chips as in ``tests/host_cann/chips.py``; clocks and bandwidths are published, but the 910B4's bandwidth is inferred,
# and the A3's clock is taken to be the 910B1's.
CHIPS = {
    rates.name: rates
    for rates in (
        Rates("910B1", 48, 1850.0, 1.6e6),
        Rates("910B2", 48, 1800.0, 1.6e6),
        Rates("910B3", 40, 1800.0, 1.6e6),
        Rates("910B4", 40, 1500.0, 0.8e6),
        Rates("A3", 48, 1850.0, 1.6e6),
    )
}
