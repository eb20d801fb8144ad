"""Build calls of norm and rotation for tests, and compare results with fp64."""

from dataclasses import dataclass

import torch

from rope_patch.operators.norm_arguments import parse
from rope_patch.operators.norm_inputs import Angles, NormRotation, Tensors
from rope_patch.operators.norm_reference import expected
from rope_patch.operators.norm_rotation import NormRotationCall
from rope_patch.operators.reference import rows_of
from tests.rotations import DEVICE

EPS = 1e-6
AXES = {"interleaved": "thw" * 20 + "thtt", "chunked": "t" * 16 + "h" * 24 + "w" * 24}


@dataclass
class Case:
    """One call; ``rows`` are each token's cosines and sines, on the host."""

    tensors: Tensors
    angles: Angles
    asked: NormRotation
    rows: torch.Tensor

    def call(self) -> NormRotationCall:
        call = parse(self.tensors, self.angles, self.asked)
        assert isinstance(call, NormRotationCall), call
        return call


def case(
    num_tokens: int,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_size: int = 128,
    rotary_dim: int = 128,
    *,
    dtype: torch.dtype = torch.bfloat16,
    cache_dtype: torch.dtype | None = None,
    positions_dtype: torch.dtype = torch.int64,
    weight_dtype: torch.dtype | None = None,
    bias: bool = False,
    gate: bool = False,
    axes: str = "",
    gathered: str = "",  # "rows", or "apart": cosines and sines in tensors of their own
    padding: int = 0,  # lanes between rows of qkv
    max_position: int = 97,
    seed: int = 0,
) -> Case:
    """Random tensors. Results hold NaN before."""
    generator = torch.Generator().manual_seed(seed)
    widths = [number * head_size for number in (num_heads, num_kv_heads, num_kv_heads, num_heads if gate else 0)]
    qkv = torch.randn(num_tokens, sum(widths) + padding, generator=generator).to(DEVICE, dtype)[:, : sum(widths)]
    results = [torch.full((num_tokens, width), float("nan"), dtype=dtype, device=DEVICE) for width in widths if width]
    parameters = [
        (middle + torch.randn(head_size, generator=generator) / 4).to(DEVICE, weight_dtype or dtype)
        for middle in (1, 1, 0, 0)[: 4 if bias else 2]
    ]
    turns = 6.3 * torch.rand(max_position, rotary_dim // 2, generator=generator)
    cache = torch.cat((turns.cos(), turns.sin()), -1).to(cache_dtype or dtype)
    shape = (3, num_tokens) if axes else (num_tokens,)
    positions = torch.randint(0, max_position, shape, generator=generator)
    rows = rows_of(positions, cache, axes)
    if gathered == "apart":  # as in 0.13
        cos, sin = (half.repeat(1, 2)[None, :, None].to(DEVICE) for half in rows.chunk(2, -1))
        angles = Angles(cos, sin, None)
    elif gathered:
        angles = Angles(cache[positions].to(DEVICE), None, None)
    else:
        angles = Angles(cache.to(DEVICE), None, positions.to(DEVICE, positions_dtype))
    asked = NormRotation(head_size, rotary_dim, num_heads, num_kv_heads, EPS, axes)
    tensors = Tensors(qkv, *results, *([] if gate else [None]), *parameters, *([] if bias else [None, None]))
    return Case(tensors, angles, asked, rows)


def assert_right(given: Case, results: tuple[torch.Tensor, ...] | None = None) -> None:
    """Every lane of q and k is normed and rotated, within rounding; v and the gates are as they were."""
    asked, tensors = given.asked, given.tensors
    gate = tensors.gate is not None
    found = [one for one in (tensors[1:5] if results is None else results) if one is not None and one.numel()]
    heads = tensors.qkv.cpu().unflatten(1, (-1, asked.head_size))
    q, k, v = heads.split([asked.num_heads * (1 + gate), asked.num_kv_heads, asked.num_kv_heads], 1)
    for part, after, name in zip((q[:, :: 1 + gate], k), found, ("query", "key"), strict=False):
        weight, bias = (tensors.q_weight, tensors.q_bias) if name == "query" else (tensors.k_weight, tensors.k_bias)
        exact, bound = expected(part, weight.cpu(), None if bias is None else bias.cpu(), asked.eps, given.rows)
        error = (after.cpu().view(part.shape).double() - exact).abs()
        wrong = ~(error <= bound)  # NaN counts
        assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} {name} lanes wrong, by up to {error.max():.3g}"
    assert torch.equal(found[2].cpu(), v.flatten(1)), "value"
    if gate:
        assert torch.equal(found[3].cpu(), q[:, 1::2].flatten(1)), "gate"
