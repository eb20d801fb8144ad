"""The top README's picture: time against tokens, ours and vllm-ascend 0.23.0's kernel, on a GPU and on an NPU.

Above measured, below modelled, from the two runs that are kept. bf16, q and k as views of one qkv tensor, fresh
outputs; vllm-ascend's kernel with the copies that it needs of such views.
"""

import json
from pathlib import Path
from typing import Any

from scripts.pictures import words
from scripts.pictures.panel import Panel
from scripts.pictures.svg import Picture

SCRIPTS = Path(__file__).parents[1]
MODELS = {  # as both runs begin its name: what the picture calls it
    "Llama-3-8B": ("Llama-3-8B", "32/8 heads, rotary 128"),
    "GLM-4-9B": ("GLM-4-9B", "32/2 heads, 64 of 128, GPT-J"),
    "Qwen3-Next": ("Qwen3-Next", "16/2 heads, 64 of 256"),
    "Phi-3-mini": ("Phi-3-mini", "32/32 heads, rotary 96"),
}
WRONG = 0.02  # relative to the result's norm, as in scripts/bench_gpu/report.py
TOKENS = (1, 64, 512, 8192)
MOST_TOKENS = 8192
TICKS = (1, 10, 100, 1000)
WIDTH, PANEL_WIDTH, GAP, PANEL_HEIGHT, LEFT, TOPS = 900, 168, 44, 130, 60, (104, 284)


def draw(language: str = "en") -> Picture:
    say = words.of("times", language)
    gpu = json.loads((SCRIPTS / "bench_gpu" / "results.json").read_text())
    clock = json.loads((SCRIPTS / "model_ascend" / "results.json").read_text())
    rows = (
        (say["measured"].format(gpu["gpu"]), measured(gpu)),
        (say["modelled"].format(clock["chip"]), modelled(clock)),
    )
    picture = Picture(WIDTH, 470, say["title"], say["description"])
    picture.text(LEFT, 26, say["head"], "head")
    picture.text(LEFT + 424, 26, "● rope_patch", "ours")
    picture.text(LEFT + 530, 26, f"● {say['theirs']}", "theirs")
    for top, (label, times) in zip(TOPS, rows, strict=True):
        picture.text(LEFT, top - 42 if top == TOPS[0] else top - 12, label, "faint")
        for column, (model, names) in enumerate(MODELS.items()):
            left = LEFT + column * (PANEL_WIDTH + GAP)
            if top == TOPS[0]:
                picture.text(left, top - 22, names[0], "head")
                picture.text(left, top - 7, names[1], "small faint")
            panel = Panel((left, top), (PANEL_WIDTH, PANEL_HEIGHT), (1, MOST_TOKENS), (0.8, 2500))
            ours, theirs, wrong = times[model]
            last_row, first_column = top == TOPS[-1], not column
            panel.draw(picture, {"theirs": theirs, "ours": ours}, (TOKENS, TICKS), (last_row, first_column))
            if wrong:
                x, y = panel.at(*theirs[-1])
                picture.text(x, y - 8, say["wrong"], "end small theirs")
    picture.text(LEFT, 456, say["dates"].format(gpu["date"], clock["date"]), "small faint")
    return picture


Times = dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]], bool]]


def measured(results: dict[str, Any]) -> Times:
    """For each model: our points, theirs, and whether theirs are wrong."""
    found: Times = {}
    for model in MODELS:
        rows = [
            row
            for row in results["rows"]
            if row["shape"].startswith(model) and row["dtype"] == "bfloat16" and row["tokens"] <= MOST_TOKENS
        ]
        ours, theirs = ([r for r in rows if r["peer"] == peer] for peer in ("rope_patch, fresh", "vllm-ascend 0.23.0"))
        wrong = any(row["relative_error"] > WRONG for row in theirs)
        found[model] = (*([(r["tokens"], r["us"]) for r in some] for some in (ours, theirs)), wrong)
    return found


def modelled(results: dict[str, Any]) -> Times:
    found: Times = {}
    for model in MODELS:
        (rows,) = (rows for case, rows in results["cases"].items() if case.startswith(model))
        ours = [(row["tokens"], row["ours"]["us"]) for row in rows]
        theirs = [(row["tokens"], row["upstream"]["us"] + row["copies_us"]) for row in rows]
        found[model] = ours, theirs, any(row["upstream"]["wrong_lanes"] for row in rows)
    return found
