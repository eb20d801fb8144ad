"""The kernel on a CUDA GPU against its peers, one run, every result checked first.

    scripts/bench_gpu/fetch.sh                                # once, where there is a package index
    python -m scripts.bench_gpu --json results.json

A proxy: it shows correctness, traffic and logic of the kernel's source. Tiles, masks and launches differ on an NPU.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from rope_patch.kernels.launch import device_facts
from rope_patch.kernels.planning import make_plan
from rope_patch.operators import contract, dispatch, op
from rope_patch.operators.arguments import parse
from rope_patch.operators.rotation import KERNELS
from scripts.bench_gpu import peers, report, timing
from scripts.bench_gpu.measuring import case, measure, ours
from tests.shapes import ModelShape

SHAPES = (
    ModelShape("Llama-3-8B", 128, 128, 32, 8),
    ModelShape("GLM-4.5 tp8", 128, 64, 12, 1),
    ModelShape("GLM-4-9B (GPT-J)", 128, 64, 32, 2, False),
    ModelShape("Qwen3-Next", 256, 64, 16, 2),
    ModelShape("GLM-5.2 draft", 192, 192, 64, 64),
    ModelShape("Phi-3-mini", 96, 96, 32, 32),
)
TOKENS = (1, 8, 32, 128, 512, 2048, 8192, 65536)
IN_PLACE = ("rope_patch, in place", "flashinfer")


def host_costs() -> dict[str, float]:
    """Microseconds of host time of one call on one token, which the device needs less for."""
    c = case(SHAPES[0], 1, torch.bfloat16)
    device = device_facts(c.query.device)
    outputs = torch.empty_like(c.query), torch.empty_like(c.key)
    two = case(SHAPES[0], 2, torch.bfloat16)
    arguments = c.positions, c.query, c.key, c.cos_sin_cache, c.rotation
    strided = two.positions, two.query, two.key, two.cos_sin_cache, two.rotation
    call, call_fresh = parse(*arguments), parse(*arguments, always_fresh=True)
    in_place, fresh = (one.launch(make_plan(KERNELS, one.shape, 1, device), device) for one in (call, call_fresh))
    found = {
        "kernel[grid], in place": timing.host_us(lambda: in_place.on(call, None, None)),
        "kernel[grid], fresh": timing.host_us(lambda: fresh.on(call_fresh, *outputs)),
        "contract.serve, in place": timing.host_us(lambda: contract.serve(*arguments)),
        "contract.serve, fresh": timing.host_us(lambda: contract.serve(*strided)),
        "the op's body, fresh": timing.host_us(lambda: op._rotary_embedding(*strided[:4], *two.rotation)),
        "torch.empty": timing.host_us(lambda: torch.empty(1, 4096, device="cuda")),
    }
    return found


def first_use_ms() -> float:
    """Milliseconds of host time of a call that is a signature's first, its kernels compiled before; median of five."""
    c = case(SHAPES[0], 2, torch.bfloat16)
    arguments = c.positions, c.query, c.key, c.cos_sin_cache, c.rotation
    times = []
    for _ in range(6):
        dispatch.forget()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        contract.serve(*arguments)
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every figure there")
    chosen = parser.parse_args()
    with torch.inference_mode():
        bandwidth = timing.copy_bandwidth()
        contenders = {
            "rope_patch, in place": ours(fresh=False),
            "flashinfer": peers.flashinfer(),
            "rope_patch, fresh": ours(fresh=True),
            "Liger": peers.liger(),
            "vllm-ascend 0.23.0": peers.vllm_ascend(),
            "vLLM native": peers.vllm_native(compiled=False),
            "torch.compile": peers.vllm_native(compiled=True),
        }
        rows = [row for shape in SHAPES for row in measure(shape, torch.bfloat16, TOKENS, contenders, IN_PLACE)]
        for dtype in (torch.float16, torch.float32):
            few = {peer: make for peer, make in contenders.items() if "compile" not in peer}
            for shape in SHAPES:
                rows += measure(shape, dtype, (1, 8192), few, IN_PLACE)
        host, check = host_costs(), first_use_ms()
    results = {
        **peers.measured_with(),
        "copy_bandwidth": bandwidth,
        "host_us": host,
        "first_use_ms": check,
        "rows": rows,
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    report.tables(results)


if __name__ == "__main__":
    main()
