"""Three positions a token (MRoPE), modelled: beside one position a token, and beside vLLM's ``triton_mrope``.

    .venvs/ascend/bin/python -m tests.host_cann.run python -m scripts.model_ascend.multimodal --json FILE

vLLM's kernel is that of its 0.23.0, as vllm-ascend 0.23.0 starts it: one program a token, in place on copies of q and
k where those are views, after cosines and sines of all three positions were gathered, and their halves copied. It
knows NeoX only, and on Ascend sections in turns (``tests/ascend_kernels/test_mrope.py``).
"""

import argparse
import datetime
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rope_patch.kernels.orders import lanes
from scripts.model_ascend import cases, kernels, launch, programs, report
from scripts.model_ascend.cases import ITEM, Case
from scripts.model_ascend.costs import CHIPS, Costs
from tests.ascend_kernels import others
from tests.host_cann import chips

MEMBER = "vllm/model_executor/layers/rotary_embedding/mrope.py"
CASES = {
    Case("Qwen2.5-VL-7B 28/4, 128, 128", 28, 4, 128, 128, True): ("chunked", 24, 24),
    Case("Qwen3-VL-8B 32/8, 128, 128", 32, 8, 128, 128, True): ("interleaved", 20, 20),
    Case("Qwen3.5 16/2, 256, 64", 16, 2, 256, 64, True): ("interleaved", 11, 10),
    Case("ERNIE-4.5-VL 20/4, 128, 128, GPT-J", 20, 4, 128, 128, False): ("alternating", 22, 22),
    Case("GLM-4.1V-9B 32/2, 128, 64, GPT-J", 32, 2, 128, 64, False): ("chunked", 12, 12),
}
TOKENS = (1, 64, 512, 8192)
Row = dict[str, Any]


@functools.cache
def _kernel() -> Any:
    return others.kernel_of("0.23.0", Path(tempfile.mkdtemp()), MEMBER, "_triton_mrope_forward")


def theirs(case: Case, num_tokens: int, chip: chips.Chip) -> kernels.Launch:
    """As ``triton_mrope`` starts it. It multiplies in bf16, hence the bound."""
    kernel, case = _kernel(), case._replace(strided=False)
    heads, kv_heads, size, rotary_dim = case.num_heads, case.num_kv_heads, case.head_size, case.rotary_dim
    numbers = {"n_qh": heads, "n_kh": kv_heads, "hd": size}
    values: Row = numbers | {f"pad_{name}": 1 << (number - 1).bit_length() for name, number in numbers.items()}
    values |= {f"mrope_section_{axis}": case.axes.count(axis) for axis in "thw"}
    values |= {"rd": rotary_dim, "is_interleaved": case.axes[:3] == "thw"}
    types = {name: kernels.kind(name) for name in kernel.arg_names if name not in values}

    def arguments(data: kernels.Tensors) -> list[np.ndarray | int]:
        halves = [cases.zeros(3, num_tokens, rotary_dim // 2) for _ in range(2)]
        for half, part in zip(halves, np.split(data.cache[data.positions], 2, -1), strict=True):
            half[:] = part
        return [data.q, data.k, *halves, num_tokens]

    alike = {0: num_tokens}
    compiled = programs.compiled(kernel, types, values, chip)
    return kernels.Launch(case, num_tokens, compiled, alike, lambda p: (p,), 0.06, arguments, False)


def before_theirs_us(case: Case, num_tokens: int, costs: Costs) -> float:
    """Of all that must be copied before vLLM's kernel: three rows a token, their halves, and q and k."""
    rows = 3 * num_tokens * case.rotary_dim * ITEM
    return sum(launch.copy_us(size, costs) for size in (rows, rows // 2, rows // 2, *case.copied_bytes(num_tokens)))


def row(case: Case, order: tuple[str, int, int], num_tokens: int, chip: chips.Chip, upstream: bool = True) -> Row:
    """Modelled, each, if it can be executed: what it takes, and how many lanes are wrong."""
    costs = CHIPS[chip.name]
    turned = case._replace(axes=lanes(order[0], case.rotary_dim // 2, *order[1:]))
    found: Row = {"tokens": num_tokens}
    makers = {
        "one position": lambda: kernels.ours(case, num_tokens, chip),
        "three positions": lambda: kernels.ours(turned, num_tokens, chip),
    }
    if upstream and case.is_neox_style:
        makers["vLLM"] = lambda: theirs(turned, num_tokens, chip)
    for name, maker in makers.items():
        try:
            executed, results = kernels.execute(maker())
        except (programs.DoesNotCompile, programs.Failed) as reason:
            found[name] = {"none": str(reason)}
        else:
            found[name] = {"us": round(executed.time(costs).us, 2), "wrong_lanes": results.wrong}
    if "us" in found.get("vLLM", {}):
        found["vLLM"]["before_us"] = round(before_theirs_us(case, num_tokens, costs), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.model_ascend.multimodal", description="Modelled times.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    chosen = parser.parse_args()
    chip = chips.CHIPS["910B3"]
    found = {case.name: [row(case, order, tokens, chip) for tokens in TOKENS] for case, order in CASES.items()}
    results = {
        "what": "modelled times of scripts/model_ascend/multimodal.py; nothing was measured",
        "date": datetime.date.today().isoformat(),
        "chip": chip.name,
        "cases": found,
    }
    print("\n".join(report.multimodal_rows(results)))
    reasons = {one["none"] for rows in found.values() for each in rows for one in each.values() if "none" in str(one)}
    print("\n".join(f"? {reason}" for reason in reasons))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
