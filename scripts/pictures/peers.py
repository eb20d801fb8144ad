"""The picture of ``scripts/bench_gpu``: time of each peer against tokens, and the fraction of the floor it reaches."""

import json
from pathlib import Path
from typing import Any

from scripts.bench_gpu.report import FRESH, IN_PLACE, WRONG
from scripts.pictures.panel import Panel
from scripts.pictures.svg import Picture

RESULTS = Path(__file__).parents[1] / "bench_gpu" / "results.json"
PEERS = {
    "rope_patch, in place": "ours",
    "rope_patch, fresh": "ours dashed",
    "flashinfer": "third",
    "Liger": "fourth dashed",
    "torch.compile": "fifth dashed",
    "vLLM native": "sixth dashed",
    "vllm-ascend 0.23.0": "theirs dashed",
}
WIDTH, COLUMNS, PANEL_WIDTH, GAP, LEFT, TOP = 1000, 3, 262, 58, 52, 96
HEIGHTS, STEP = (150, 90), 330


def draw() -> Picture:
    results = json.loads(RESULTS.read_text())
    rows = [row for row in results["rows"] if row["dtype"] == "bfloat16"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    words = (
        "For six shapes: microseconds a call, and below that the fraction of the copy-bandwidth floor, both against "
    )
    words += "the number of tokens, for rope_patch and its peers. Wrong results are left out."
    lines = -(-len(shapes) // COLUMNS)
    picture = Picture(WIDTH, TOP + lines * STEP - 20, "The kernel and its peers on a GPU", words)
    head = f"Microseconds a call, and fraction of the floor, against tokens; bf16, measured on {results['gpu']}"
    picture.text(LEFT, 26, f"{head}, {results['date']}", "head")
    for number, (peer, classes) in enumerate(PEERS.items()):
        mark = "╌╌" if "dashed" in classes else "──"
        picture.text(LEFT + number * 134, 50, f"{mark} {peer}", f"small {classes}")
    for number, shape in enumerate(shapes):
        left = LEFT + number % COLUMNS * (PANEL_WIDTH + GAP)
        top = TOP + number // COLUMNS * STEP
        _panels(picture, (left, top), shape, [row for row in rows if row["shape"] == shape], results["copy_bandwidth"])
    return picture


def _panels(
    picture: Picture, corner: tuple[float, float], shape: str, rows: list[dict[str, Any]], bandwidth: float
) -> None:
    picture.text(corner[0], corner[1] - 10, shape, "head")
    right = {
        classes: [r for r in rows if r["peer"] == peer and r["relative_error"] <= WRONG]
        for peer, classes in PEERS.items()
    }
    assert set(PEERS) == {*IN_PLACE, *FRESH}
    tokens, ticks = (1, 65536), (1, 32, 512, 8192, 65536)
    times = {classes: [(r["tokens"], r["us"]) for r in found] for classes, found in right.items()}
    panel = Panel(corner, (PANEL_WIDTH, HEIGHTS[0]), tokens, (1, 20000))
    panel.draw(picture, times, (ticks, (1, 10, 100, 1000, 10000)), (False, True))
    of_floor = {
        classes: [(r["tokens"], r["bytes"] / bandwidth * 1e6 / r["us"]) for r in found]
        for classes, found in right.items()
    }
    below = corner[0], corner[1] + HEIGHTS[0] + 18
    Panel(below, (PANEL_WIDTH, HEIGHTS[1]), tokens, (0, 1.25)).draw(
        picture, of_floor, (ticks, (0, 0.5, 1)), (True, True)
    )
