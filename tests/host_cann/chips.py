"""The chips the host CANN can pretend to be; ``HOST_CANN_CHIP`` chooses one.

Core counts and buffer sizes are public figures, nothing was measured here; the 910B3's and the 310P's L2 and the 310P's
unified buffer are assumed, and no test may rest on them.
Both the C runtime and the compiler stand-in are generated from, or read, this one table.
"""

import os
from dataclasses import dataclass

SETTING = "HOST_CANN_CHIP"
DEFAULT = "910B3"


@dataclass(frozen=True)
class Chip:
    name: str  # what HOST_CANN_CHIP says
    soc_name: str  # what ACL reports
    cube_cores: int
    vector_cores: int
    ub_bytes: int  # unified buffer of one vector core
    l2_mib: int
    hbm_gib: int
    triton: bool  # does Triton-Ascend compile for it?


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("910B1", "Ascend910B1", 24, 48, 192 << 10, 192, 64, True),
        Chip("910B2", "Ascend910B2", 24, 48, 192 << 10, 192, 64, True),
        Chip("910B3", "Ascend910B3", 20, 40, 192 << 10, 192, 64, True),
        Chip("910B4", "Ascend910B4", 20, 40, 192 << 10, 96, 32, True),
        Chip("A3", "Ascend910_9391", 24, 48, 192 << 10, 192, 64, True),
        Chip("310P", "Ascend310P3", 10, 8, 256 << 10, 16, 24, False),
    )
}


def current() -> Chip:
    """The chip that ``HOST_CANN_CHIP`` names; ``KeyError`` naming the valid ones otherwise."""
    name = os.environ.get(SETTING, DEFAULT)
    if name not in CHIPS:
        raise KeyError(f"{SETTING}={name!r}: expected one of {', '.join(CHIPS)}")
    return CHIPS[name]


def by_soc_name(soc_name: str) -> Chip:
    """The chip behind ``--target=SOC_NAME``; ``KeyError`` naming the known ones otherwise."""
    for chip in CHIPS.values():
        if chip.soc_name == soc_name:
            return chip
    raise KeyError(f"target {soc_name!r}: expected one of {', '.join(c.soc_name for c in CHIPS.values())}")


def c_table() -> str:
    """The table as a C initialiser, included by ``runtime/chip.c``."""
    return "".join(
        f'{{"{c.name}", "{c.soc_name}", {c.cube_cores}, {c.vector_cores}, {c.l2_mib}, {c.hbm_gib}}},\n'
        for c in CHIPS.values()
    )
