"""The kernel on a CUDA GPU against its peers, one run, every result checked first.

    scripts/bench_gpu/fetch.sh                                # once, where there is a package index
    python -m scripts.bench_gpu --json results.json --plot times.png

A proxy: it shows correctness, traffic and logic of the kernel's source. Tiles, masks and launches differ on an NPU.
"""

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from rope_patch.kernels.launch import device_facts, planned
from rope_patch.kernels.planning import make_plan
from rope_patch.rotation import dispatch, ops, rotary
from rope_patch.rotation.arguments import parse
from rope_patch.trust import reference
from scripts.bench_gpu import peers, report, timing
from scripts.bench_gpu.peers import Case
from tests.rotations import launch

# As one tensor-parallel rank sees them: q heads, kv heads, head_size, rotary_dim, NeoX.
SHAPES = {
    "Llama-3-8B": (32, 8, 128, 128, True),
    "GLM-4.5 tp8": (12, 1, 128, 64, True),
    "GLM-4-9B (GPT-J)": (32, 2, 128, 64, False),
    "Qwen3-Next": (16, 2, 256, 64, True),
    "GLM-5.2 draft": (64, 64, 192, 192, True),
    "Phi-3-mini": (32, 32, 96, 96, True),
}
TOKENS = (1, 8, 32, 128, 512, 2048, 8192, 65536)
COMPILED_TOKENS = (1, 512, 8192, 65536)  # torch.compile: seconds each
IN_PLACE = ("rope_patch, in place", "flashinfer")
MAX_POSITION = 131072


def case(shape: tuple[int, int, int, int, bool], num_tokens: int, dtype: torch.dtype) -> Case:
    heads, kv_heads, head_size, rotary_dim, is_neox_style = shape
    generator = torch.Generator("cuda").manual_seed(num_tokens)
    row = (heads + 2 * kv_heads) * head_size
    qkv = torch.randn(num_tokens, row, generator=generator, device="cuda").to(dtype)
    query, key, _ = qkv.split([heads * head_size, kv_heads * head_size, kv_heads * head_size], -1)
    angles = torch.rand(MAX_POSITION, rotary_dim // 2, generator=generator, device="cuda") * 6.3
    cache = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
    positions = torch.randint(0, MAX_POSITION, (num_tokens,), generator=generator, device="cuda")
    return Case(positions, query, key, cache, head_size, rotary_dim, is_neox_style)


def ours(fresh: bool) -> Callable[[Case], peers.Work]:
    def peer(c: Case) -> peers.Work:
        call = parse(c.positions, c.query, c.key, c.cos_sin_cache, c.head_size, c.rotary_dim, c.is_neox_style)

        def work() -> tuple[torch.Tensor, torch.Tensor]:
            outputs = (c.query.new_empty(c.query.shape), c.key.new_empty(c.key.shape)) if fresh else (None, None)
            launch(call, *outputs)
            return outputs if fresh else (c.query, c.key)

        return work

    return peer


def errors(c: Case, work: peers.Work) -> tuple[float, float]:
    """Of up to 512 tokens: the relative error (of norms, against fp64), and the largest single error in multiples of
    what fp32 arithmetic and one rounding allow."""
    sample = torch.randperm(c.positions.numel(), device="cuda")[:512]
    before = [c.heads(t)[sample].cpu() for t in (c.query, c.key)]
    rows = c.cos_sin_cache[c.positions[sample]].cpu()
    relative = multiple = 0.0
    for x, y in zip(before, work(), strict=True):
        arguments = torch.arange(len(rows)), x, rows, c.rotary_dim, c.is_neox_style
        exact, bound = reference.expected(*arguments)
        error = (c.heads(y)[sample].cpu().double() - exact).nan_to_num(float("inf")).abs()
        relative = max(relative, float(error.norm() / exact.norm()))
        multiple = max(multiple, float((error / bound.clamp_min(1e-30)).max()))
    return relative, multiple


def bytes_moved(c: Case, fresh: bool) -> int:
    """The least: what is rotated, read and written once; with fresh outputs, the pass-through lanes too."""
    width = c.head_size if fresh else c.rotary_dim
    heads = (c.query.shape[1] + c.key.shape[1]) // c.head_size
    each = 2 * heads * width * c.query.element_size() + c.rotary_dim * c.cos_sin_cache.element_size()
    return c.positions.numel() * (each + c.positions.element_size())


def measure(name: str, dtype: torch.dtype, tokens: tuple[int, ...], contenders: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for num_tokens in tokens:
        c = case(SHAPES[name], num_tokens, dtype)
        for peer, make in contenders.items():
            if "compile" in peer and num_tokens not in COMPILED_TOKENS:
                continue
            work = make(c)
            if work is None:
                continue
            saved = c.query.clone(), c.key.clone()
            relative, multiple = errors(c, work)
            if peer.startswith("rope_patch") and multiple > 1:
                raise SystemExit(f"wrong: {peer}, {name}, {dtype}, {num_tokens} tokens: {multiple} of what is allowed")
            median, spread = timing.device_us(work, 50 if num_tokens <= 512 else 10 if num_tokens <= 8192 else 3)
            c.query.copy_(saved[0])  # some peers rotate in place where a tensor is contiguous, over and over
            c.key.copy_(saved[1])
            del saved
            moved = bytes_moved(c, fresh=peer not in IN_PLACE)
            row = {"shape": name, "dtype": str(dtype)[6:], "tokens": num_tokens, "peer": peer, "us": median,
                   "spread_us": spread, "bytes": moved, "relative_error": relative}  # fmt: skip
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
        del c
    return rows


def host_costs() -> dict[str, float]:
    """Microseconds of host time of one call on one token, which the device needs less for."""
    c = case(SHAPES["Llama-3-8B"], 1, torch.bfloat16)
    call = parse(c.positions, c.query, c.key, c.cos_sin_cache, c.head_size, c.rotary_dim, c.is_neox_style)
    device = device_facts(c.query.device)
    outputs = torch.empty_like(c.query), torch.empty_like(c.key)
    two = case(SHAPES["Llama-3-8B"], 2, torch.bfloat16)
    arguments = c.positions, c.query, c.key, c.cos_sin_cache, c.head_size, c.rotary_dim, True
    strided = two.positions, two.query, two.key, two.cos_sin_cache, two.head_size, two.rotary_dim, True
    in_place, fresh = (
        planned(call, shape, make_plan(shape, 1, device), device) for shape in (call.shape(False), call.shape(True))
    )
    found = {
        "kernel[grid], in place": timing.host_us(lambda: in_place.on(call, None, None)),
        "kernel[grid], fresh": timing.host_us(lambda: fresh.on(call, *outputs)),
        "rotary.serve, in place": timing.host_us(lambda: rotary.serve(*arguments)),
        "rotary.serve, fresh": timing.host_us(lambda: rotary.serve(*strided)),
        "the op's body, fresh": timing.host_us(lambda: ops._rotary_embedding(*strided)),
        "torch.empty": timing.host_us(lambda: torch.empty(1, 4096, device="cuda")),
    }
    return found


def first_use_ms() -> float:
    """Milliseconds of host time of a call that is a signature's first, its kernels compiled before; median of five."""
    c = case(SHAPES["Llama-3-8B"], 2, torch.bfloat16)
    arguments = c.positions, c.query, c.key, c.cos_sin_cache, c.head_size, c.rotary_dim, True
    times = []
    for _ in range(6):
        dispatch.forget()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        rotary.serve(*arguments)
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write every figure there")
    parser.add_argument("--plot", type=Path, help="draw time and fraction of the floor against tokens there")
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
        rows = [row for name in SHAPES for row in measure(name, torch.bfloat16, TOKENS, contenders)]
        for dtype in (torch.float16, torch.float32):
            few = {peer: make for peer, make in contenders.items() if "compile" not in peer}
            rows += [row for name in SHAPES for row in measure(name, dtype, (1, 8192), few)]
        host, check = host_costs(), first_use_ms()
    results = {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "peers": (peers.PEERS / "versions").read_text().split("\n")[:-1],
        "copy_bandwidth": bandwidth,
        "host_us": host,
        "first_use_ms": check,
        "rows": rows,
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    report.tables(results)
    if chosen.plot:
        report.plot(results, chosen.plot)


if __name__ == "__main__":
    main()
