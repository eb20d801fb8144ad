"""Tables of what was measured:  python -m scripts.bench_gpu.report results.json

The last table is the README's.
"""

import json
import sys
from pathlib import Path
from typing import Any

IN_PLACE = ("rope_patch, in place", "flashinfer")
FRESH = ("rope_patch, fresh", "Liger", "vllm-ascend 0.23.0", "vLLM native", "torch.compile")
WRONG = 0.02  # relative to the result's norm: eight times what bfloat16 arithmetic errs by; a defect's is of order 1
MEANINGFUL_BYTES = 50e6  # what is less fits in the L2 cache, and the copy's bandwidth is no floor of it
README_TOKENS = (1, 8192, 65536)
README_SHAPES = {
    "Llama-3-8B": "32/8, 128, 128 (Llama 3)",
    "GLM-4.5 tp8": "12/1, 128, 64 (GLM-4.5)",
    "GLM-4-9B (GPT-J)": "32/2, 128, 64, GPT-J (GLM-4)",
    "Qwen3-Next": "16/2, 256, 64 (Qwen3-Next)",
    "GLM-5.2 draft": "64/64, 192, 192 (GLM-5.2 draft)",
    "Phi-3-mini": "32/32, 96, 96 (Phi-3)",
}
README_PEERS = (
    "rope_patch, in place",
    "flashinfer",
    "rope_patch, fresh",
    "Liger",
    "torch.compile",
    "vllm-ascend 0.23.0",
)


def tables(results: dict[str, Any]) -> None:
    rows = {(r["shape"], r["dtype"], r["tokens"], r["peer"]): r for r in results["rows"]}
    bandwidth = results["copy_bandwidth"]
    print(f"measured on {results['gpu']}, torch {results['torch']}, triton {results['triton']}, {results['date']}")
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s; microseconds, CUDA-graph replay, median; ! wrong result")
    for peers in (IN_PLACE, FRESH):
        print(f"\n{'shape':18}{'dtype':9}{'tokens':>7}{'floor':>9}" + "".join(f"{p[:18]:>21}" for p in peers))
        for shape, dtype, tokens in dict.fromkeys(key[:3] for key in rows):
            found = [rows.get((shape, dtype, tokens, peer)) for peer in peers]
            floor = found[0]["bytes"] / bandwidth * 1e6
            cells = "".join(f"{cell(r):>21}" for r in found)
            print(f"{shape:18}{dtype:9}{tokens:7}{floor:9.2f}{cells}   {floor / found[0]['us']:5.0%} of the floor")
    print("\nhost microseconds a call: " + ", ".join(f"{name} {us:.1f}" for name, us in results["host_us"].items()))
    print(f"first-use check of a signature, compiled before: {results['first_use_ms']:.1f} ms of host time")
    print("\n" + "\n".join(readme_rows(results)))


def readme_rows(results: dict[str, Any]) -> list[str]:
    """The rows of the README's table, bfloat16: microseconds, and for ours the fraction of the floor."""
    rows = {(r["shape"], r["tokens"], r["peer"]): r for r in results["rows"] if r["dtype"] == "bfloat16"}
    lines = []
    for shape, name in README_SHAPES.items():
        for tokens in README_TOKENS:
            cells = [name, f"{tokens:,}"]
            for peer in README_PEERS:
                row = rows.get((shape, tokens, peer))
                wrong = row is not None and row["relative_error"] > WRONG
                cells.append("–" if row is None else f"{_rounded(row['us'])}{' (wrong)' if wrong else ''}")  # noqa: RUF001
                if peer.startswith("rope_patch"):
                    cells.append(_of_floor(row, results["copy_bandwidth"]))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _rounded(us: float) -> str:
    """Three digits, or what is before the point."""
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:.0f}"


def _of_floor(row: dict[str, Any], bandwidth: float) -> str:
    if row["bytes"] < MEANINGFUL_BYTES:
        return "–"  # noqa: RUF001
    return f"{row['bytes'] / bandwidth * 1e6 / row['us']:.0%}"


def cell(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['us']:.2f}{'!' if row['relative_error'] > WRONG else ''}"


if __name__ == "__main__":
    tables(json.loads(Path(sys.argv[1]).read_text()))
