"""What norm and rotation are given: what is asked, the tensors, and synthetic ones, on which a kernel is tried."""

from typing import NamedTuple

import torch
from torch import Tensor

from rope_patch.operators.norm_reference import expected
from rope_patch.operators.reference import rows_of
from rope_patch.serving.sample import NotNow, Sample, placed

NAMES = "query", "key", "value", "gate"  # of the results


class NormRotation(NamedTuple):
    """What is asked. NeoX style. A plain tuple, since comparing and hashing those is fast."""

    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int
    eps: float
    axes: str = ""  # which of three positions each pair of lanes turns by (``orders.py``); empty for one position


class Tensors(NamedTuple):
    """Those of a call, beside its angles; in the order in which kernels take them."""

    qkv: Tensor  # [num_tokens, the heads of q, with gates or without, of k and of v, beside each other]
    query: Tensor  # written, as the next three: [num_tokens, num_heads * head_size], contiguous
    key: Tensor
    value: Tensor
    gate: Tensor | None
    q_weight: Tensor  # [head_size], as the next three
    k_weight: Tensor
    q_bias: Tensor | None
    k_bias: Tensor | None


class Angles(NamedTuple):
    """Cosines and sines: a cache with positions, or rows that the caller gathered, one a token."""

    cos: Tensor  # [rows, rotary_dim], cosines then sines; gathered with axes [3, num_tokens, rotary_dim]
    sin: Tensor | None  # gathered beside ``cos``, whose rows then are cosines; second halves repeat the first
    positions: Tensor | None  # [num_tokens], or with axes [3, num_tokens]; None: gathered


def synthetic(
    num_tokens: int, given: Tensors, angles: Angles, asked: NormRotation
) -> tuple[Tensors, Angles, list[Sample]]:
    """Tensors like the given ones, and what is right for each result: random qkv, whose heads differ in size, weights
    around one and biases around zero; results that hold NaN."""
    generator = torch.Generator("cpu").manual_seed(0)  # the global one's random numbers are the model's
    turned, rows = _angles(num_tokens, angles, asked, generator)
    gates = given.gate is not None
    shape = num_tokens, given.qkv.shape[1] // asked.head_size, asked.head_size
    sizes = torch.exp2(6 * torch.rand(*shape[:2], 1, generator=generator, device="cpu") - 3)
    qkv = (sizes * torch.randn(shape, generator=generator, device="cpu")).to(given.qkv.dtype)

    def lanes(middle: float, like: Tensor) -> Tensor:
        random = torch.randn(asked.head_size, generator=generator, device="cpu")
        return placed((middle + random / 4).to(like.dtype), (1,), like)

    weights = [lanes(1, like) for like in (given.q_weight, given.k_weight)]
    biases = [None if like is None else lanes(0, like) for like in (given.q_bias, given.k_bias)]
    q, k, v = qkv.split([asked.num_heads * (1 + gates), asked.num_kv_heads, asked.num_kv_heads], dim=1)
    both = zip((q[:, :: 1 + gates], k), weights, biases, strict=True)
    right = [
        expected(part, weight.cpu(), None if bias is None else bias.cpu(), asked.eps, rows)
        for part, weight, bias in both
    ]
    right += [(part.double(), torch.zeros(1, device="cpu")) for part in (v, *([q[:, 1::2]] if gates else []))]
    samples = [
        Sample(name, exact.flatten(1), bound.expand(exact.shape).flatten(1))
        for name, (exact, bound) in zip(NAMES, right, strict=False)
    ]
    tensors = Tensors(
        qkv=placed(qkv.flatten(1), given.qkv.stride(), given.qkv),
        query=_unwritten(num_tokens, given.query),
        key=_unwritten(num_tokens, given.key),
        value=_unwritten(num_tokens, given.value),
        gate=None if given.gate is None else _unwritten(num_tokens, given.gate),
        q_weight=weights[0],
        k_weight=weights[1],
        q_bias=biases[0],
        k_bias=biases[1],
    )
    return tensors, turned, samples


def _angles(num_tokens: int, given: Angles, asked: NormRotation, generator: torch.Generator) -> tuple[Angles, Tensor]:
    """Angles of the same kind, and each token's row of them, on the host: positions spread over the real cache (those
    of a warm-up are zeros), or random rows in place of gathered ones."""
    cos, sin, positions = given
    axes, rotary_dim = asked.axes, asked.rotary_dim
    if positions is None:
        size = 3 if axes else 1, num_tokens, rotary_dim // 2
        turns = 6.28 * torch.rand(size, generator=generator, device="cpu")
        cache = torch.cat((turns.cos(), turns.sin()), -1).to(cos.dtype).flatten(0, 1)
        at = torch.arange(len(cache), device="cpu").view(3 if axes else 1, num_tokens)
        rows = rows_of(at if axes else at[0], cache, axes)
        if sin is None:
            gathered = cache.view(3, num_tokens, rotary_dim) if axes else cache
            return Angles(placed(gathered, gathered.stride(), cos), None, None), rows
        halves = (half.repeat(1, 2) for half in cache.chunk(2, -1))
        cos, sin = (placed(half, (rotary_dim, 1), like) for half, like in zip(halves, (cos, sin), strict=True))
        return Angles(cos, sin, None), rows
    last = len(cos) - 1
    at = torch.linspace(last, 0, num_tokens, dtype=torch.float64, device="cpu").long()
    if axes:  # those of a token differ: equal ones would prove nothing
        at = torch.stack([(at + last * axis // 3) % (last + 1) for axis in range(3)])
    # Copying to the host waits for the device, so an earlier fault of the device is raised here, before the launch.
    rows = rows_of(at.to(cos.device), cos, axes).cpu()
    if not rows.isfinite().all():  # vLLM sleeps, or has not loaded the model yet
        raise NotNow("the cache holds values that are not finite")
    strides = (num_tokens + 1, 1) if axes else (1,)
    return Angles(cos, None, placed(at.to(positions.dtype), strides, positions)), rows


def _unwritten(num_tokens: int, like: Tensor) -> Tensor:
    values = torch.full((num_tokens, like.shape[1]), float("nan"), dtype=like.dtype, device="cpu")
    return placed(values, values.stride(), like)
