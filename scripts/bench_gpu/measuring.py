"""One rotation, its data, and each contender's time and error on it."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rope_patch.operators import reference
from rope_patch.operators.arguments import parse
from rope_patch.operators.rotation import Rotation
from scripts.bench_gpu import timing
from tests.rotations import launch
from tests.shapes import ModelShape

COMPILED_TOKENS = (1, 512, 8192, 65536)  # torch.compile: seconds each
MAX_POSITION = 131072

Work = Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Case:
    """One rotation. ``query`` and ``key`` are ``[num_tokens, heads * head_size]`` views of one tensor."""

    positions: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    cos_sin_cache: torch.Tensor
    shape: ModelShape

    @property
    def head_size(self) -> int:
        return self.shape.head_size

    @property
    def rotary_dim(self) -> int:
        return self.shape.rotary_dim

    @property
    def is_neox_style(self) -> bool:
        return self.shape.is_neox_style

    @property
    def rotation(self) -> Rotation:
        return Rotation(self.head_size, self.rotary_dim, self.is_neox_style, self.shape.axes)

    @property
    def num_tokens(self) -> int:
        return self.query.shape[0]

    def heads(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(-1, (-1, self.head_size))


def case(shape: ModelShape, num_tokens: int, dtype: torch.dtype) -> Case:
    heads, kv_heads, head_size, rotary_dim = shape.num_heads, shape.num_kv_heads, shape.head_size, shape.rotary_dim
    generator = torch.Generator("cuda").manual_seed(num_tokens)
    row = (heads + 2 * kv_heads) * head_size
    qkv = torch.randn(num_tokens, row, generator=generator, device="cuda").to(dtype)
    query, key, _ = qkv.split([heads * head_size, kv_heads * head_size, kv_heads * head_size], -1)
    angles = torch.rand(MAX_POSITION, rotary_dim // 2, generator=generator, device="cuda") * 6.3
    cache = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
    rows = (3, num_tokens) if shape.axes else (num_tokens,)
    positions = torch.randint(0, MAX_POSITION, rows, generator=generator, device="cuda")
    return Case(positions, query, key, cache, shape)


def ours(fresh: bool) -> Callable[[Case], Work]:
    def peer(c: Case) -> Work:
        call = parse(c.positions, c.query, c.key, c.cos_sin_cache, c.rotation)

        def work() -> tuple[torch.Tensor, torch.Tensor]:
            outputs = (c.query.new_empty(c.query.shape), c.key.new_empty(c.key.shape)) if fresh else (None, None)
            launch(call, *outputs)
            return outputs if fresh else (c.query, c.key)

        return work

    return peer


def errors(c: Case, work: Work) -> tuple[float, float]:
    """Of up to 512 tokens: the relative error (of norms, against fp64), and the largest single error in multiples of
    what fp32 arithmetic and one rounding allow."""
    sample = torch.randperm(c.num_tokens, device="cuda")[:512]
    before = [c.heads(t)[sample].cpu() for t in (c.query, c.key)]
    rows = reference.rows_of(c.positions[..., sample], c.cos_sin_cache, c.shape.axes).cpu()
    relative = multiple = 0.0
    for x, y in zip(before, work(), strict=True):
        exact, bound = reference.expected(x, rows, c.rotation)
        error = (c.heads(y)[sample].cpu().double() - exact).nan_to_num(float("inf")).abs()
        relative = max(relative, float(error.norm() / exact.norm()))
        multiple = max(multiple, float((error / bound.clamp_min(1e-30)).max()))
    return relative, multiple


def bytes_moved(c: Case, fresh: bool) -> int:
    """The least: what is rotated, read and written once; with fresh outputs, the pass-through lanes too."""
    width = c.head_size if fresh else c.rotary_dim
    heads = (c.query.shape[1] + c.key.shape[1]) // c.head_size
    each = 2 * heads * width * c.query.element_size() + c.rotary_dim * c.cos_sin_cache.element_size()
    return c.num_tokens * each + c.positions.numel() * c.positions.element_size()


def measure(
    shape: ModelShape,
    dtype: torch.dtype,
    tokens: tuple[int, ...],
    contenders: Mapping[str, Callable[[Case], Work | None]],
    in_place: tuple[str, ...],
) -> list[dict[str, Any]]:
    """A row for each number of tokens and contender; ``in_place`` names those that make no new tensors."""
    rows = []
    for num_tokens in tokens:
        c = case(shape, num_tokens, dtype)
        for peer, make in contenders.items():
            if "compile" in peer and num_tokens not in COMPILED_TOKENS:
                continue
            work = make(c)
            if work is None:
                continue
            saved = c.query.clone(), c.key.clone()
            relative, multiple = errors(c, work)
            if peer.startswith("rope_patch") and multiple > 1:
                raise SystemExit(
                    f"wrong: {peer}, {shape.model}, {dtype}, {num_tokens} tokens: {multiple} of what is allowed"
                )
            median, spread = timing.device_us(work, 50 if num_tokens <= 512 else 10 if num_tokens <= 8192 else 3)
            c.query.copy_(saved[0])  # some peers rotate in place where a tensor is contiguous, over and over
            c.key.copy_(saved[1])
            del saved
            moved = bytes_moved(c, fresh=peer not in in_place)
            row = {"shape": shape.model, "dtype": str(dtype)[6:], "tokens": num_tokens, "peer": peer, "us": median,
                   "spread_us": spread, "bytes": moved, "relative_error": relative}  # fmt: skip
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
        del c
    return rows
