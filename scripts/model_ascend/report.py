"""The table of the README, from the results that are kept: ``python -m scripts.model_ascend.report results.json``."""

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "| query/key heads, head size, rotary dim | 1 token | 64 | 512 | 2,048 | 8,192 | of HBM's bandwidth at 8,192 "
    "| vllm-ascend 0.23.0 at 1, 64, 512, 8,192 | 0.13.0 at 1, 64, 512, 8,192 |"
)
TOKENS = (1, 64, 512, 8192)


def readme_rows(results: dict[str, Any]) -> list[str]:
    """One line a case, below the table's head."""
    return [_row(name, {row["tokens"]: row for row in rows}) for name, rows in results["cases"].items()]


def multimodal_rows(results: dict[str, Any]) -> list[str]:
    """One line a model, below the table's head: at each number of tokens three positions, in parts of one position's
    time where those are many; and vLLM's with what comes before."""
    lines = []
    for name, rows in results["cases"].items():
        model, shape = name.split(" ", 1)
        at = {found["tokens"]: found for found in rows}
        ours = [f"{found['three positions']['us']:.3g}" for found in rows]
        more = at[8192]["three positions"]["us"] / at[8192]["one position"]["us"]
        upstream = [
            f"{found['vLLM']['us'] + found['vLLM']['before_us']:.3g}" for found in rows if "us" in found.get("vLLM", {})
        ]
        said = ", ".join(upstream) or ("does not run" if "vLLM" in rows[0] else "has none")
        lines.append(f"| {shape} ({model}) | {' | '.join(ours)} | {more:.2f} | {said} |")
    return lines


def _row(name: str, at: dict[int, dict[str, Any]]) -> str:
    model, shape = name.split(" ", 1)
    words = shape.split(" ")
    while "/" not in words[0]:
        model += f" {words.pop(0)}"
    ours = [_us(row["ours"]) for row in at.values()]
    fraction = f"{at[8192]['of_hbm']:.0%}" if "of_hbm" in at[8192] else "-"
    cells = [f"{' '.join(words)} ({model})", *ours, fraction]
    for which in ("upstream", "seed"):
        if "us" not in at[8192][which]:
            cells.append("does not fit")
            continue
        copied = [_us(at[tokens][which], at[tokens]["copies_us"]) for tokens in TOKENS]
        marks = "; wrong" * bool(at[8192][which]["wrong_lanes"])
        cells.append(", ".join(copied) + marks)
    return f"| {' | '.join(cells)} |"


def _us(found: dict[str, Any], more: float = 0.0) -> str:
    if "us" not in found:
        return "does not fit"
    us = found["us"] + more
    return f"{us:.1f}" if us < 100 else f"{us:.0f}"


def main() -> None:
    rows = readme_rows(json.loads(Path(sys.argv[1]).read_text()))
    print("\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *rows]))


if __name__ == "__main__":
    main()
