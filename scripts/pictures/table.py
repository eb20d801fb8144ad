"""The table of ``scripts/README.md``, from the two runs that are kept: ``python -m scripts.pictures.table``.

Microseconds, bf16, q and k as views of one qkv tensor. Measured: fresh outputs, ours beside vllm-ascend's kernel, on
the GPU that the kept run names. Modelled: ours beside vllm-ascend 0.23.0's with the copies that it needs.
"""

import json
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1]
SHAPES = {  # model, as both runs begin its name: what the table calls it
    "Llama-3-8B": "Llama-3-8B (32/8 heads, 128)",
    "GLM-4-9B": "GLM-4-9B (32/2, 64 of 128, GPT-J)",
    "GLM-4.5 tp8": "GLM-4.5, a rank of 8 (12/1, 64 of 128)",
    "Qwen3-Next": "Qwen3-Next (16/2, 64 of 256)",
    "Phi-3-mini": "Phi-3-mini (32/32, 96)",
}
TOKENS = (1, 8192)
WRONG = 0.02  # relative to the result's norm, as in scripts/bench_gpu/report.py


def rows() -> list[str]:
    """One line a shape, below the table's head."""
    measured = json.loads((SCRIPTS / "bench_gpu" / "results.json").read_text())["rows"]
    modelled = json.loads((SCRIPTS / "model_ascend" / "results.json").read_text())["cases"]
    return [_row(model, name, measured, modelled) for model, name in SHAPES.items()]


def _row(model: str, name: str, measured: list[dict[str, Any]], modelled: dict[str, Any]) -> str:
    gpu = {
        (row["tokens"], row["peer"]): row
        for row in measured
        if row["shape"].startswith(model) and row["dtype"] == "bfloat16"
    }
    (clock,) = ({row["tokens"]: row for row in found} for case, found in modelled.items() if case.startswith(model))
    cells = [name]
    for tokens in TOKENS:
        ours, theirs = gpu[tokens, "rope_patch, fresh"], gpu[tokens, "vllm-ascend 0.23.0"]
        wrong = " (wrong)" if theirs["relative_error"] > WRONG else ""
        cells.append(f"{_us(ours['us'])}, {_us(theirs['us'])}{wrong}")
    for tokens in TOKENS:
        row = clock[tokens]
        wrong = " (wrong)" if row["upstream"]["wrong_lanes"] else ""
        cells.append(f"{_us(row['ours']['us'])}, {_us(row['upstream']['us'] + row['copies_us'])}{wrong}")
    return f"| {' | '.join(cells)} |"


def _us(us: float) -> str:
    return f"{us:.1f}" if us < 100 else f"{us:.0f}"


if __name__ == "__main__":
    print("\n".join(rows()))
