"""Tables and a picture of what was measured:  python -m scripts.bench_gpu.report results.json [times.png]"""

import json
import sys
from pathlib import Path
from typing import Any

IN_PLACE = ("rope_patch, in place", "flashinfer")
FRESH = ("rope_patch, fresh", "Liger", "vllm-ascend 0.23.0", "vLLM native", "torch.compile")
WRONG = (
    64  # times what correct fp32 arithmetic and one rounding may err: bf16 arithmetic stays below, a defect does not
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


def cell(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['us']:.2f}{'!' if row['relative_error'] > WRONG else ''}"


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in results["rows"] if row["dtype"] == "bfloat16"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    figure, axes = pyplot.subplots(2, len(shapes), figsize=(4 * len(shapes), 7), sharex=True)
    for column, shape in enumerate(shapes):
        for peer in (*IN_PLACE, *FRESH):
            points = [r for r in rows if (r["shape"], r["peer"]) == (shape, peer) and r["relative_error"] <= WRONG]
            tokens, style = [r["tokens"] for r in points], "-" if peer in IN_PLACE else "--"
            axes[0][column].loglog(tokens, [r["us"] for r in points], style, label=peer, marker=".")
            fractions = [r["bytes"] / results["copy_bandwidth"] * 1e6 / r["us"] for r in points]
            axes[1][column].semilogx(tokens, fractions, style, marker=".")
        axes[0][column].set_title(shape)
        axes[1][column].set_xlabel("tokens")
    axes[0][0].set_ylabel("µs")
    axes[1][0].set_ylabel("fraction of the copy-bandwidth floor")
    axes[0][0].legend(fontsize=7)
    figure.suptitle(
        f"bfloat16, measured on {results['gpu']}, {results['date']}; solid: in place, dashed: fresh outputs"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    stored = json.loads(Path(sys.argv[1]).read_text())
    tables(stored)
    if len(sys.argv) > 2:
        plot(stored, Path(sys.argv[2]))
