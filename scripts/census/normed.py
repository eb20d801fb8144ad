"""The census of norm and rotation: every kernel of these models' shapes, asked of the compilers, for every chip.

    python -m scripts.census.normed [--json scripts/census/normed.json] [--quick]

Heads that cannot be cut in the unified buffer, many heads, biases, gates, cosines by position and gathered are among
them; bf16 and fp16.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rope_patch.kernels.launch import UNIFIED_BUFFER
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.orders import lanes
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import plans_of
from rope_patch.operators.norm_rotation import KERNELS as NORMED
from scripts.census import asking
from scripts.census.asking import Answer, Question
from scripts.census.kernels import DTYPES, Kernel
from tests.host_cann import bishengir, chips
from tests.host_cann.chips import Chip

QWEN3_VL = {"axes": lanes("interleaved", 64, 20, 20), "by_position": False}
QWEN3_5 = {"axes": lanes("interleaved", 32, 11, 10), "by_position": False, "has_gate": True}
# Head size, rotary dim, heads of q and of k; the head counts of some were not looked up.
MODELS: dict[str, tuple[tuple[int, int, int, int], dict[str, Any]]] = {
    "Qwen3-0.6B": ((128, 128, 16, 8), {}),
    "Qwen3-8B": ((128, 128, 32, 8), {}),
    "Qwen3-8B, with biases": ((128, 128, 32, 8), {"has_bias": True}),
    "Qwen3-8B, gathered": ((128, 128, 32, 8), {"by_position": False}),
    "Qwen3-8B tp4": ((128, 128, 8, 2), {}),
    "Qwen3-14B": ((128, 128, 40, 8), {}),
    "Qwen3-32B": ((128, 128, 64, 8), {}),
    "Qwen3-235B tp8": ((128, 128, 8, 1), {}),
    "GLM-4.5": ((128, 64, 96, 8), {}),
    "GLM-4.5 tp8": ((128, 64, 12, 1), {}),
    "GLM-4.5 tp8, with biases": ((128, 64, 12, 1), {"has_bias": True}),
    "Qwen3-VL-8B": ((128, 128, 32, 8), QWEN3_VL),
    "Qwen3-VL-8B tp4": ((128, 128, 8, 2), QWEN3_VL),
    "Qwen3.5": ((256, 64, 16, 2), QWEN3_5),
    "Qwen3.5 tp2": ((256, 64, 8, 1), QWEN3_5),
    "heads of 64": ((64, 64, 16, 4), {}),
    "heads of 96": ((96, 96, 16, 16), {}),
    "heads of 256": ((256, 256, 16, 8), {}),
    "heads of 80, 20 rotated": ((80, 20, 32, 32), {}),
}


class Case(NamedTuple):
    """A way to come to a kernel."""

    model: str
    dtype: str
    step: int  # which of its plans, from few tokens to many
    tile: tuple[int, int, int]  # tokens, heads of q and of k
    kernel: Kernel


def cases(chip: Chip) -> Iterator[Case]:
    device = Device(chip.vector_cores, UNIFIED_BUFFER, powers_of_two=False)
    for model, ((head_size, rotary_dim, heads, kv_heads), options) in MODELS.items():
        for dtype in ("bf16", "fp16"):
            row = (heads * (2 if options.get("has_gate") else 1) + 2 * kv_heads) * head_size
            item = DTYPES[dtype]
            shape = NormedShape(head_size, rotary_dim, heads, kv_heads, 1e-6, row, item, item, **options)
            for step, plan in enumerate(plans_of(NORMED, shape, device)):
                values = (*plan.constants(shape).items(), *((name, None) for name in absent(shape)))
                facts = plan.facts()
                tile = (plan.block_tokens, facts["block_heads"], facts["block_kv_heads"])
                yield Case(model, dtype, step, tile, Kernel(plan.function.__name__, dtype, values))


def absent(shape: NormedShape) -> list[str]:
    """The pointers that are None."""
    biases = [] if shape.has_bias else ["q_bias_ptr", "k_bias_ptr"]
    gate, positions = [] if shape.has_gate else ["gate_out_ptr"], [] if shape.by_position else ["positions_ptr"]
    return ["sin_ptr", *biases, *gate, *positions]


def answers(quick: bool) -> dict[Case, dict[str, Answer]]:
    """By compiler, and chips where these are described in other words."""
    some = [chip for chip in chips.CHIPS.values() if chip.triton]
    found = list(dict.fromkeys(case for chip in some for case in cases(chip)))[:: asking.EVERY if quick else 1]
    lowered = asking.in_processes("lowered", asking.linalg, [(case.kernel, ()) for case in found])
    probe = lowered[found[0].kernel, ()]
    groups = {compiler: asking.alike(compiler, some, probe) for compiler in bishengir.installed()}
    answered, others = asking.answers_of(groups, list(dict.fromkeys(lowered.values())))
    if others["never so"]:
        print("the chips of a group are answered differently:", *others["never so"], sep="\n", file=sys.stderr)
    return {
        case: {
            f"{compiler} {'/'.join(chip.name for chip in group)}": answered[
                Question(compiler, group[0], lowered[case.kernel, ()])
            ]
            for compiler, several in groups.items()
            for group in several
        }
        for case in found
    }


def record(case: Case) -> dict[str, Any]:
    values = {name: value for name, value in case.kernel.values if value is not None}
    return {"model": case.model, "dtype": case.dtype, "step": case.step, "kernel": case.kernel.name, "values": values}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.census.normed", description="Are the kernels taken?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line for each kernel")
    parser.add_argument("--quick", action="store_true", help="every twentieth kernel")
    chosen = parser.parse_args()
    answered = answers(chosen.quick)
    refused = {}
    lines = []
    for case, by in answered.items():
        said = {
            who: answer.ub_bytes if answer.clean else answer.error or list(answer.notes) for who, answer in by.items()
        }
        refused |= {(case, who): what for who, what in said.items() if not isinstance(what, int)}
        lines.append(json.dumps(record(case) | {"answers": said}))
    print(f"{len(answered)} kernels, {len(next(iter(answered.values())))} compilers and groups of chips each")
    for (case, who), what in refused.items():
        print(f"{case.model} {case.dtype} {case.tile} {case.kernel.name}, {who}: {what}")
    if chosen.json:
        chosen.json.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
