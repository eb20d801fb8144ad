"""Split, norm and rotation on a CUDA GPU: one launch of ours against others' ways, every result checked first.

    scripts/bench_gpu/fetch.sh
    python -m scripts.bench_gpu.normed --json normed.json
    python -m scripts.bench_gpu.normed --show scripts/bench_gpu/normed.json     # what is kept here

Peers: torch.compile of the whole in PyTorch; PyTorch by itself; flashinfer's norms and rotation, in place on q and k
(three launches; v stays where it is, so they move less). vLLM's own ``fused_qk_norm_rope`` is in its CUDA wheel only,
which is too large to carry.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rope_patch.kernels.launch import Launch, device_facts
from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.planning import make_plan
from rope_patch.operators.norm_rotation import KERNELS as NORMED

EPS = 1e-6
MAX_POSITION = 131072
TOKENS = (1, 8, 32, 128, 512, 2048, 8192, 65536)
COMPILED_TOKENS = (1, 512, 8192, 65536)
OURS, COMPILED, PLAIN, FLASHINFER = "rope_patch", "torch.compile", "PyTorch", "flashinfer, norms then rotation"


class Model(NamedTuple):
    name: str
    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int


MODELS = (
    Model("Qwen3-8B", 128, 128, 32, 8),
    Model("Qwen3-32B", 128, 128, 64, 8),
    Model("Qwen3-8B tp4", 128, 128, 8, 2),
    Model("GLM-4.5 tp8", 128, 64, 12, 1),
)
Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Peer = Callable[["Case"], Callable[[], Results] | None]


@dataclass
class Case:
    model: Model
    qkv: torch.Tensor
    weights: tuple[torch.Tensor, torch.Tensor]
    cos_sin_cache: torch.Tensor
    positions: torch.Tensor

    @property
    def widths(self) -> list[int]:
        model = self.model
        return [heads * model.head_size for heads in (model.num_heads, model.num_kv_heads, model.num_kv_heads)]

    def split(self) -> list[torch.Tensor]:
        """q, k and v as views, ``[num_tokens, heads, head_size]``."""
        return [x.unflatten(-1, (-1, self.model.head_size)) for x in self.qkv.split(self.widths, -1)]


def case(model: Model, num_tokens: int, dtype: torch.dtype, device: str = "cuda") -> Case:
    g = torch.Generator(device).manual_seed(num_tokens)
    heads = model.num_heads + 2 * model.num_kv_heads
    qkv = torch.randn(num_tokens, heads * model.head_size, generator=g, device=device).to(dtype)
    first, second = ((1 + 0.2 * torch.randn(model.head_size, generator=g, device=device)).to(dtype) for _ in range(2))
    angles = torch.rand(MAX_POSITION, model.rotary_dim // 2, generator=g, device=device) * 6.3
    cache = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
    positions = torch.randint(0, MAX_POSITION, (num_tokens,), generator=g, device=device)
    return Case(model, qkv, (first, second), cache, positions)


def ours() -> Peer:
    def peer(c: Case) -> Callable[[], Results]:
        model, device = c.model, device_facts(c.qkv.device)
        shape = NormedShape(
            model.head_size, model.rotary_dim, model.num_heads, model.num_kv_heads, EPS, c.qkv.stride(0),
            c.qkv.element_size(), c.cos_sin_cache.element_size(),
        )  # fmt: skip
        strides = c.cos_sin_cache.stride(0), c.qkv.stride(0)
        unit = 1 if any(stride % device.stride_unit for stride in strides) else device.stride_unit
        plan = make_plan(NORMED, shape, len(c.qkv), device)
        programs, each = plan.grid(len(c.qkv), device)
        numbers = (len(c.qkv), each, len(c.cos_sin_cache), *(stride // unit for stride in strides))
        started = Launch(plan.function, programs, numbers, plan.constants(shape, unit))

        def work() -> Results:
            outputs = tuple(c.qkv.new_empty(len(c.qkv), width) for width in c.widths)
            memory = (c.qkv, *outputs, None, *c.weights, None, None, c.cos_sin_cache, None, c.positions)
            started.on(_Memory(memory))
            return outputs

        return work

    return peer


class _Memory(NamedTuple):
    tensors: tuple[Any, ...]

    def memory(self) -> tuple[Any, ...]:
        return self.tensors


def in_pytorch(c: Case, qkv: torch.Tensor, kind: torch.dtype) -> Results:
    """The whole, computed in ``kind``."""
    half = c.model.rotary_dim // 2
    cos, sin = c.cos_sin_cache[c.positions].to(kind)[:, None].split(half, -1)
    q, k, v = (x.unflatten(-1, (-1, c.model.head_size)) for x in qkv.split(c.widths, -1))

    def turned(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = x.to(kind)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight.to(kind)
        x1, x2, rest = x.split([half, half, c.model.head_size - 2 * half], -1)
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest), -1).flatten(1)

    return turned(q, c.weights[0]), turned(k, c.weights[1]), v.flatten(1).contiguous()


def pytorch(compiled: bool) -> Peer:
    def whole(c: Case, qkv: torch.Tensor) -> Results:
        q, k, v = in_pytorch(c, qkv, torch.float32)
        return q.to(qkv.dtype), k.to(qkv.dtype), v

    def peer(c: Case) -> Callable[[], Results] | None:
        if not compiled:
            return lambda: whole(c, c.qkv)
        if len(c.qkv) not in COMPILED_TOKENS:
            return None
        torch._dynamo.reset()
        found = torch.compile(lambda qkv: whole(c, qkv), fullgraph=True, dynamic=False)
        return lambda: found(c.qkv)

    return peer


def flashinfer() -> Peer:
    """Each call would norm what it normed before; so the results of the first count, and all take as long."""
    from torch.utils.cpp_extension import load

    from scripts.bench_gpu import peers

    source = Path(__file__).with_name("flashinfer_norm.cu")
    module = load("flashinfer_norm", [str(source)], **peers.flashinfer_flags())
    rotation = peers.flashinfer_module()

    def peer(c: Case) -> Callable[[], Results]:
        cache = c.cos_sin_cache.float()
        q, k, v = c.split()

        def work() -> Results:
            for x, weight in zip((q, k), c.weights, strict=True):
                module.norm_in_place(x, weight, EPS)
            rotation.rotate_in_place(q, k, cache, c.positions, False)
            return q.flatten(1), k.flatten(1), v.flatten(1)

        return work

    return peer


def error(c: Case, work: Callable[[], Results]) -> float:
    """Of up to 512 tokens, the largest beside fp64's result, in halves of a unit of the type's rounding."""
    exact = in_pytorch(c, c.qkv.double(), torch.float64)
    step = torch.finfo(c.qkv.dtype).eps / 2
    worst = 0.0
    for got, wanted in zip(work(), exact, strict=True):
        allowed = wanted.abs() * step + wanted.abs().amax(-1, keepdim=True) * 2.0**-20
        worst = max(worst, float(((got.double() - wanted).abs() / allowed).nan_to_num(float("inf")).max()))
    return worst


def measured() -> dict[str, Any]:
    from scripts.bench_gpu import peers, timing

    contenders = {OURS: ours(), COMPILED: pytorch(True), PLAIN: pytorch(False), FLASHINFER: flashinfer()}
    rows = []
    with torch.inference_mode():
        bandwidth = timing.copy_bandwidth()
        for model in MODELS:
            for dtype in (torch.bfloat16, torch.float16):
                for num_tokens in TOKENS if dtype == torch.bfloat16 else (1, 8192):
                    rows += _rows(case(model, num_tokens, dtype), contenders, timing.device_us)
    return {**peers.measured_with(), "copy_bandwidth": bandwidth, "rows": rows}


def _rows(c: Case, contenders: dict[str, Peer], device_us: Callable[..., tuple[float, float]]) -> list[dict[str, Any]]:
    rows, tokens = [], len(c.qkv)
    for name, make in contenders.items():
        if (work := make(c)) is None:
            continue
        small, saved = case(c.model, min(tokens, 512), c.qkv.dtype, c.qkv.device.type), c.qkv.clone()
        checked = make(small)
        multiple = error(small, checked) if checked else error(c, work)
        if name == OURS and multiple > 1:
            raise SystemExit(f"wrong: {c.model.name}, {c.qkv.dtype}, {tokens} tokens: {multiple} of what is allowed")
        median, spread = device_us(work, 50 if tokens <= 512 else 10 if tokens <= 8192 else 3)
        c.qkv.copy_(saved)
        row = {"shape": c.model.name, "dtype": str(c.qkv.dtype)[6:], "tokens": tokens, "peer": name, "us": median,
               "spread_us": spread, "error": multiple, "bytes": 2 * c.qkv.numel() * c.qkv.element_size()}  # fmt: skip
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def table(results: dict[str, Any]) -> list[str]:
    """Lines for the README: bfloat16, microseconds."""
    rows = {(r["shape"], r["tokens"], r["peer"]): r for r in results["rows"] if r["dtype"] == "bfloat16"}
    names = (OURS, FLASHINFER, COMPILED, PLAIN)
    lines = [f"| model | tokens | {' | '.join(names)} | of a copy's bandwidth |", "|---|---|" + "---|" * 5]
    for model in MODELS:
        for tokens in (1, 512, 8192, 65536):
            found = [rows.get((model.name, tokens, name)) for name in names]
            cells = ["–" if row is None else f"{row['us']:.3g}" for row in found]  # noqa: RUF001
            mine = rows[model.name, tokens, OURS]
            reached = mine["bytes"] / mine["us"] * 1e6 / results["copy_bandwidth"]
            lines.append(f"| {model.name} | {tokens:,} | {' | '.join(cells)} | {reached:.0%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_gpu.normed", description="Norm and rotation.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing, show these figures")
    chosen = parser.parse_args()
    results = json.loads(chosen.show.read_text()) if chosen.show else measured()
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    print(f"measured on {results['gpu']}, torch {results['torch']}, triton {results['triton']}, {results['date']}")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
