"""Three positions a token (MRoPE) on a CUDA GPU: the kernel against vLLM's and Liger's, every result checked first.

    scripts/bench_gpu/fetch.sh
    python -m scripts.bench_gpu.multimodal --json multimodal.json
    python -m scripts.bench_gpu.multimodal --show scripts/bench_gpu/multimodal.json      # what is kept here

The kernel with one position a token is beside them: what three positions cost.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tests.shapes import ModelShape

MODELS = (
    ModelShape("Qwen2.5-VL-7B", 128, 128, 28, 4, True, ("chunked", 24, 24)),
    ModelShape("GLM-4.1V-9B (GPT-J)", 128, 64, 32, 2, False, ("chunked", 12, 12)),
    ModelShape("Qwen3-VL-8B", 128, 128, 32, 8, True, ("interleaved", 20, 20)),
    ModelShape("Qwen3.5", 256, 64, 16, 2, True, ("interleaved", 11, 10)),
)
TOKENS = (1, 8, 32, 128, 512, 2048, 8192, 65536)
OURS = ("rope_patch, in place", "rope_patch, fresh")
PEERS = ("vLLM's triton_mrope", "Liger")
PLAIN = "rope_patch, in place, one position a token"


def measured() -> dict[str, Any]:
    import torch

    from scripts.bench_gpu import peers, timing
    from scripts.bench_gpu.measuring import measure, ours

    contenders = {
        OURS[0]: ours(fresh=False),
        OURS[1]: ours(fresh=True),
        "vLLM's triton_mrope": peers.vllm_multimodal(),
        "Liger": peers.liger_multimodal(),
    }
    in_place = (OURS[0], PLAIN, "vLLM's triton_mrope")
    rows = []
    with torch.inference_mode():
        bandwidth = timing.copy_bandwidth()
        for shape in MODELS:
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                tokens = TOKENS if dtype == torch.bfloat16 else (1, 8192)
                rows += measure(shape, dtype, tokens, contenders, in_place)
                rows += measure(shape._replace(order=None), dtype, tokens, {PLAIN: ours(fresh=False)}, in_place)
    return {
        **peers.measured_with(),
        "copy_bandwidth": bandwidth,
        "rows": rows,
    }


def table(results: dict[str, Any]) -> list[str]:
    """Lines for the README: bfloat16, microseconds."""
    rows = {(r["shape"], r["tokens"], r["peer"]): r for r in results["rows"] if r["dtype"] == "bfloat16"}
    names = (OURS[0], "vLLM's triton_mrope", PLAIN, OURS[1], "Liger")
    lines = [f"| model | tokens | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for model in (shape.model for shape in MODELS):
        for tokens in (1, 512, 8192, 65536):
            found = [rows.get((model, tokens, name)) for name in names]
            cells = ("–" if row is None else f"{row['us']:.3g}" for row in found)  # noqa: RUF001
            lines.append(f"| {model} | {tokens:,} | {' | '.join(cells)} |")
    return lines


def comparisons(results: dict[str, Any]) -> list[tuple[float, str]]:
    """Each peer's time in parts of ours that does the same, the least first."""
    rows = {(r["shape"], r["dtype"], r["tokens"], r["peer"]): r["us"] for r in results["rows"]}
    return sorted(
        (us / rows[model, dtype, tokens, _same(peer, tokens)], f"{model}, {dtype}, {tokens} tokens, {peer}")
        for (model, dtype, tokens, peer), us in rows.items()
        if peer in PEERS
    )


def _same(peer: str, tokens: int) -> str:
    """Which of ours does what that peer does. Liger copies q and k, unless one token's, which are contiguous."""
    return OURS[1] if peer == "Liger" and tokens > 1 else OURS[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench_gpu.multimodal", description=__doc__.split("\n")[0] if __doc__ else None
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing, show these figures")
    chosen = parser.parse_args()
    results = json.loads(chosen.show.read_text()) if chosen.show else measured()
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    print(f"measured on {results['gpu']}, torch {results['torch']}, triton {results['triton']}, {results['date']}")
    print("\n".join(table(results)))
    found = comparisons(results)
    print(f"faster in {sum(times > 1 for times, _ in found)} of {len(found)}; the closest:")
    print("\n".join(f"  {times:.2f} {what}" for times, what in found[:5]))


if __name__ == "__main__":
    main()
