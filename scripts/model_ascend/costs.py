"""What things cost on a vector core of an A2 or A3, each with its source; none was measured by this project.

The sources, by the names that the comments use:

* **tables**: asc-devkit, docs/zh/api, appendix "Vector instruction theoretical performance" (elements a cycle);
* **ATT**: CANN's automatic tiling, graph-autofusion ``att/gen_model_info/api_perf_register/v1/perf_param_v1.cpp``: for
  each vector API the cycles an element and those of a call, fitted by the vendor to the A2;
* **CA**: PyPTO ``framework/src/cost_model/simulation_ca/A2A3`` (until c708fafcf): the vendor's model of the pipes;
* **config**: CANN's platform configuration, PyPTO ``platform_config/A2A3.ini``;
* **samples**: asc-devkit's examples ``add_high_performance`` and ``data_copy``, whose READMEs have times that the
  vendor measured on an A2 of 48 vector cores; ``samples.py`` has their loops;
* **guide**: asc-devkit, docs/zh/guide, the chapters on the performance of SIMD operators.

Frozen: they came in a commit of the clock and its calibration alone, before any use of it. A new calibration is a
commit of its own again, with the table of ``published.py`` before and after; never in one with a change of a kernel.
"""

import functools
from dataclasses import dataclass

# (cycles a repeat of 256 bytes, cycles from its last repeat until its result is there), by the beginning of the name.
# ATT's numbers; where tables or CA differ, the comment says so. Two operands take 1.3 cycles where tables have one:
# conflicts of banks, which in the samples (add's cases 5 and 6) are all the difference between 2.0 and 1.0.
VECTOR = {
    "VADDS": (1.0, 22.1),
    "VADD": (1.32, 23.2),
    "VSUB": (1.36, 22.1),
    "VMULS": (1.0, 23.1),
    "VMUL": (1.32, 23.2),
    "VMAXS": (1.0, 20.1),
    "VMINS": (1.0, 20.1),
    "VMAX": (1.38, 20.1),
    "VMIN": (1.38, 20.1),
    "VDIV": (2.9, 29.1),
    "VSQRT": (2.0, 29.0),
    "VRSQRT": (1.0, 21.1),
    "VREC": (1.0, 21.1),
    "VEXP": (2.0, 28.0),
    "VLN": (2.0, 29.0),  # tables: as VEXP; CA: two cycles more
    "VABS": (1.0, 20.1),
    "VRELU": (1.0, 20.0),
    "VAND": (1.4, 17.1),
    "VOR": (1.7, 12.4),
    "VNOT": (1.0, 17.1),  # tables: as VAND; one operand
    "VSHL": (1.0, 17.1),  # tables: 64 elements of 32 bits; CA has none: as VAND
    "VSHR": (1.0, 17.1),
    "VCMPVS": (1.0, 22.0),
    "VCMPV": (2.0, 21.0),
    "VSEL": (1.5, 21.0),  # ATT's 44 are of a call of several instructions; CA: 6 + 15
    "VCONV": (1.0, 20.1),
    "MOVEV": (1.0, 17.0),
    "VBRCB": (1.0, 13.1),
    "VCOPY": (1.0, 13.0),
    "VREDUCEv2": (2.0, 14.0),
    "VGATHER": (12.8, 15.0),  # tables: 5 elements a cycle
    "VCGADD": (1.3, 17.0),
    "VCADD": (7.0, 32.0),
    "VCPADD": (7.0, 37.0),
    "S.VNCHWCONV": (2.0, 22.0),  # CA; tables: 1.0
    "SET.CMPMASK": (1.0, 6.0),  # tables: one; CA: a load by the scalar unit
}
COPY = (1.0, 11.6)  # within the unified buffer: ATT's Ub2ub; CA: 12


@functools.cache
def vector(name: str) -> tuple[float, float]:
    """Of that instruction; ``KeyError`` naming it if no cost is known."""
    known = [beginning for beginning in VECTOR if name.startswith(beginning)]
    if not known:
        raise KeyError(f"no cost is known for the vector instruction {name}")
    return VECTOR[max(known, key=len)]


@dataclass(frozen=True)
class Costs:
    """Of one chip. Cycles are of its own clock; rates are bytes a cycle and a core unless they say otherwise."""

    name: str
    vector_cores: int
    cycles_per_us: float
    # Of the whole chip, reads and writes together. The A2's 1.6 TB/s are what the samples reach (case 4: 1.607).
    hbm_bytes_per_us: float
    l2_bytes_per_us: float = 5.2e6  # samples, data_copy: the peak that its README names
    l2_bytes: int = 192 << 20  # config

    # Global memory to unified buffer. The rate is fitted to the samples: data_copy's case 3 gives 46.0, add's case 1
    # 45.9. Config: 32 from HBM, 110 from L2. What a transfer takes by itself is fitted to data_copy's case 1 (ATT: 27),
    # what a burst takes to its case 2 (CA: one).
    load_rate: float = 46.0
    load_cycles: float = 15.0
    load_burst_cycles: float = 1.5
    load_latency: float = 307.0  # CA: from the end of its requests to the data's being there
    # Unified buffer to global memory.
    store_rate: float = 64.0  # config; with the other two, add's cases 1 and 2 to a few cycles (294)
    store_cycles: float = 12.1  # ATT
    store_burst_cycles: float = 1.5  # as a load's
    store_latency: float = 153.0  # CA
    line_bytes: int = 512  # guide: requests are cut at whole lines, and are of 128, 256 or 512 bytes

    # The scalar unit. Each pipe's queue holds so many instructions, and then the scalar unit waits.
    queue: int = 32  # CA
    buffer_load_cycles: float = 6.0  # CA: LD
    buffer_store_cycles: float = 4.0  # CA: ST
    cached_bytes: int = 64  # assumed: of global memory, what one miss of the scalar unit's cache brings
    # Fitted to sgl-kernel-npu's 289 us: for every instruction, flag and barrier that the scalar unit hands on, its own
    # arithmetic for their operands included, of which a trace knows nothing. CA: two for each operation
    # of that arithmetic.
    issue_cycles: float = 5.7

    # Fitted: so that the smallest kernel takes 2.3 us on one core and 3.1 us on 40, the two ends of what is published.
    start_us: float = 2.0
    start_us_per_core: float = 0.0205


# Chips as in ``tests/host_cann/chips.py``; clocks and bandwidths are published, but the 910B4's bandwidth is inferred,
# and the A3's clock is taken to be the 910B1's.
CHIPS = {
    costs.name: costs
    for costs in (
        Costs("910B1", 48, 1850.0, 1.6e6),
        Costs("910B2", 48, 1800.0, 1.6e6),
        Costs("910B3", 40, 1800.0, 1.6e6),
        Costs("910B4", 40, 1500.0, 0.8e6, l2_bytes=96 << 20),
        Costs("A3", 48, 1850.0, 1.6e6),
    )
}
