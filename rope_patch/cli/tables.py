"""Judges a module's table of cosines and sines against its definition, from the same parameters.

rope_patch rotates by whatever table is there, so a table that differs is no fault of a kernel; but the model then
rotates otherwise than it was trained.
"""

from typing import Any, NamedTuple

import torch

from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.table_definitions import OURS, defined
from rope_patch.cli.table_kinds import Part, parts

ROWS = 256  # that are compared, spread over the table
TRUNCATE = "vllm-ascend makes YaRN's table with truncate=False; set truncate to true in the model's rope parameters"
MROPE = "vLLM makes YaRN's table of a multimodal model for four times the trained length"


class Judged(NamedTuple):
    """What was found of a table."""

    definition: str | None  # by which it was judged; None: it was not, since its definition is not known
    differs: str | None = None  # how, and a known reason; None if it does not


NOT_JUDGED = Judged(None)


def judged(rope: RopeConfig, module: Any) -> Judged:
    """Only of modules that are made as a model makes them, since only their parameters are known."""
    if rope.made is None:
        return NOT_JUDGED
    try:
        of = parts(module, rope.made.arguments)
        found = [one for part in of if (one := _judged(part, rope)) is not None]
    except Exception as error:  # another release's arguments, or definition
        return Judged(None, f"its table could not be judged ({type(error).__name__}: {error})")
    return next((one for one in found if one.differs), found[0]) if found else NOT_JUDGED


def _judged(part: Part, rope: RopeConfig) -> Judged | None:
    name = part.kind if part.kind in OURS else f"transformers' {part.kind}"
    frequencies = defined(part, rope)
    if frequencies is None or part.table.shape[-1] != 2 * len(frequencies[0]):
        return None
    share = share_of_wrong(part.table, *frequencies)
    if not share:
        return Judged(name)
    said = f"{share:.0%} of its table's values are not those of {name}"
    if part.kind == "yarn":
        trained = part.parameters["original_max_position_embeddings"]
        reasons = {TRUNCATE: {"truncate": False}, MROPE: {"original_max_position_embeddings": 4 * trained}}
        for reason, change in reasons.items():
            changed = defined(part._replace(parameters={**part.parameters, **change}), rope)
            if changed and not share_of_wrong(part.table, *changed):
                return Judged(name, f"{said}: {reason}")
    return Judged(name, said)


def share_of_wrong(table: torch.Tensor, frequencies: torch.Tensor, factor: float) -> float:
    """Which part of the table's values is further from the definition than its dtype and fp32 explain."""
    rows = torch.linspace(0, len(table) - 1, min(ROWS, len(table)), dtype=torch.float64).long()
    angles = rows.double()[:, None] * frequencies
    exact = torch.cat((angles.cos(), angles.sin()), -1) * factor
    # The angle was computed in fp32 from a frequency in fp32: each may be wrong by a few units in the last place.
    bound = torch.finfo(table.dtype).eps * exact.abs().clamp_min(2**-8) + torch.cat((angles, angles), -1) * 2.0**-20
    found = table[rows.to(table.device)].cpu().double()
    return float((~((found - exact).abs() <= bound + 1e-6)).double().mean())
