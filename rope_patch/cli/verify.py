"""Check the kernel against fp64 on this machine's device, for a model's shapes or for a built-in list.

MODEL is a Hugging Face model folder or a config.json; only JSON is read. The device is the NPU, else the CUDA device,
else the CPU, where Triton's interpreter runs the kernel for mainline Triton, slowly. Exit status 1 on any wrong lane.
"""

import argparse
import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from rope_patch.cli import rope_config
from rope_patch.cli.answer import Answer, CannotAnswer, printable, progress, table
from rope_patch.cli.rope_config import RopeConfig

if TYPE_CHECKING:
    import torch

    from rope_patch.operators.reference import Compared

TOKENS = (1, 2, 19)  # one and two, since only a slice of qkv of one token is contiguous; and some more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder or a config.json")
    parser.add_argument(
        "--tensor-parallel-size", "-tp", type=int, default=1, metavar="N", help="ranks to divide heads by"
    )
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], help="this one only (default: all)")


class Result(NamedTuple):
    """One shape in one dtype, over all its layouts and numbers of tokens."""

    rope: RopeConfig
    dtype: str
    max_ulp: float  # the largest error, in units in the last place of the rotated pair
    wrong: int  # number of lanes with an error larger than rounding explains
    lanes: int
    fault: str | None  # why the kernel does not serve it


def act(options: argparse.Namespace) -> Answer:
    """Check every shape in every dtype, with progress on standard error."""
    found = rope_config.selected(options.model, options.tensor_parallel_size)
    device = choose_device()
    dtypes = [options.dtype] if options.dtype else ["float16", "bfloat16", "float32"]
    results = []
    for number, (rope, dtype) in enumerate((rope, dtype) for rope in found for dtype in dtypes):
        progress(f"{number} of {len(found) * len(dtypes)}: {printable(rope.name)} {dtype} … ")
        results.append(examine(rope, dtype, device))
    progress("")
    bad = [result for result in results if result.wrong or result.fault]
    verdict = f"{len(bad)} of {len(results)} wrong" if bad else f"all {len(results)} right, to rounding"
    data = {"device": described(device), "ok": not bad, "results": [_data(result) for result in results]}
    return Answer(not bad, data, f"{_text(results)}\n\n{described(device)}: {verdict}")


def _data(result: Result) -> dict[str, Any]:
    fields = result._asdict()
    rope = fields.pop("rope")
    shape = {**rope._asdict(), "sections": rope.sections and rope.sections._asdict()}
    return {"shape": shape, **fields, "ok": not (result.wrong or result.fault)}


def _text(results: list[Result]) -> str:
    header = ("shape", "head", "rotary", "heads", "style", "sections", "scaling", "dtype", "max error", "")
    rows = []
    for one in results:
        rope = one.rope
        heads, style = f"{rope.num_heads}/{rope.num_kv_heads}", "neox" if rope.is_neox_style else "gpt-j"
        verdict = one.fault or (f"WRONG: {one.wrong} of {one.lanes} lanes" if one.wrong else "ok")
        error = "-" if one.fault else f"{one.max_ulp:.3f} ulp"
        shape = rope.name, rope.head_size, rope.rotary_dim, heads, style, rope.sections or "-", rope.scaling
        rows.append((*shape, one.dtype, error, verdict))
    return table(header, rows)


def choose_device() -> "torch.device":
    """The NPU, else CUDA, else the CPU under Triton's interpreter. Call it before the kernel is imported, since Triton
    reads TRITON_INTERPRET then."""
    try:
        import torch
    except Exception as error:  # torch is missing or broken
        raise CannotAnswer(f"torch is needed: {type(error).__name__}: {error}") from error
    if importlib.util.find_spec("triton") is None:
        raise CannotAnswer("triton is needed, which compiles the kernel")
    with contextlib.suppress(ImportError):  # without it, torch has no npu
        import torch_npu  # noqa: F401
    for kind in ("npu", "cuda"):
        module: Any = getattr(torch, kind, None)
        if os.environ.get("TRITON_INTERPRET") != "1" and module is not None and module.is_available():
            return torch.device(kind, module.current_device())
    os.environ["TRITON_INTERPRET"] = "1"
    return torch.device("cpu")


def described(device: "torch.device") -> str:
    import torch

    if device.type == "cpu":
        return "the CPU, under Triton's interpreter"
    return f"{device} ({getattr(torch, device.type).get_device_name(device)})"


def examine(rope: RopeConfig, dtype: str, device: "torch.device") -> Result:
    """Rotate every layout and number of tokens of one shape by ``contract.serve``, and compare every lane."""
    import torch

    max_ulp, wrong, lanes = 0.0, 0, 0
    try:
        for found in _compared(rope, dtype, device):
            ulps = found.error / ulp(found.exact, rope, torch.finfo(getattr(torch, dtype)))
            max_ulp = max(max_ulp, float(ulps.nan_to_num(float("inf")).max()))
            wrong += found.wrong()
            lanes += found.error.numel()
    except NotServed as why:
        return Result(rope, dtype, max_ulp, wrong, lanes, str(why))
    except Exception as error:  # it becomes the shape's fault in the answer
        return Result(rope, dtype, max_ulp, wrong, lanes, f"{type(error).__name__}: {str(error).strip()[-200:]}")
    return Result(rope, dtype, max_ulp, wrong, lanes, None)


class NotServed(Exception):
    """The kernel does not serve the call; the message says why."""


def _compared(rope: RopeConfig, dtype: str, device: "torch.device") -> "Iterator[Compared]":
    """q and then k, call by call."""
    import torch

    from rope_patch.operators import contract, reference
    from rope_patch.operators.reference import rows_of
    from rope_patch.operators.rotation import Rotation
    from rope_patch.reporting import ledger

    generator = torch.Generator("cpu").manual_seed(0)
    kind = getattr(torch, dtype)
    rows = min(rope.max_position, 65_536)
    cache = _cache(rope, rows).to(device, kind)
    rotation = Rotation(rope.head_size, rope.rotary_dim, rope.is_neox_style, axes_of(rope))
    for num_tokens in TOKENS:
        positions = positions_of(rope, num_tokens, rows, generator)
        positions.view(-1)[-1] = rows - 1
        rows_of_tokens = rows_of(positions, cache.cpu(), rotation.axes)
        positions = positions.to(device)
        for strided in (True, False):
            query, key = inputs(rope, num_tokens, strided, generator, kind, device)
            before = [tensor.cpu().clone().reshape(num_tokens, -1, rope.head_size) for tensor in (query, key)]
            handed_back = ledger.fallbacks()
            rotated = contract.serve(positions, query, key, cache, rotation)
            if rotated is None:
                raise NotServed("; ".join(ledger.fallbacks() - handed_back))
            for was, now in zip(before, rotated, strict=True):
                assert now is not None  # there was a key
                yield reference.compared(was, now, rows_of_tokens, rotation)


def axes_of(rope: RopeConfig) -> str:
    """A ``Rotation``'s ``axes`` for this shape; empty if a token has one position."""
    from rope_patch.operators import arguments

    sections = rope.sections
    return arguments.axes_of(sections.pairs, sections.order, rope.rotary_dim) if sections else ""


def positions_of(rope: RopeConfig, num_tokens: int, rows: int, generator: Any) -> "torch.Tensor":
    """Random rows of the cache: ``[num_tokens]``, or ``[3, num_tokens]``, where equal ones would prove nothing."""
    import torch

    return torch.randint(0, rows, (3, num_tokens) if rope.sections else (num_tokens,), generator=generator)


def inputs(
    rope: RopeConfig, num_tokens: int, strided: bool, generator: Any, dtype: Any, device: Any
) -> "tuple[torch.Tensor, torch.Tensor]":
    """q and k as vLLM has them: views of qkv, or contiguous tensors, as in models that normalise q and k."""
    import torch

    width, kv_width = rope.num_heads * rope.head_size, rope.num_kv_heads * rope.head_size
    qkv = torch.randn(num_tokens, width + 2 * kv_width, generator=generator).to(device, dtype)
    query, key = qkv[:, :width], qkv[:, width : width + kv_width]
    return (query, key) if strided else (query.clone(), key.clone())


def _cache(rope: RopeConfig, rows: int) -> "torch.Tensor":
    """Cosines and sines of unscaled angles. Scaling changes only the angles, and the kernel works alike for all."""
    import torch

    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float64) / rope.rotary_dim
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * rope.theta**-exponents
    return torch.cat((angles.cos(), angles.sin()), -1).float()


def ulp(exact: "torch.Tensor", rope: RopeConfig, info: Any) -> "torch.Tensor":
    """A unit in the last place for each lane: eps * 2**e for a size in [2**e, 2**(e+1)), at least that of subnormals.

    The size of a rotated lane is the length of its pair, which a rotation does not change. The lane's own value would
    be misleading: where two products nearly cancel, the small difference keeps the error of the products.
    """
    import torch

    turned = exact[..., : rope.rotary_dim]
    if rope.is_neox_style:
        length = torch.hypot(*turned.chunk(2, dim=-1)).repeat(1, 1, 2)
    else:
        length = torch.hypot(turned[..., 0::2], turned[..., 1::2]).repeat_interleave(2, dim=-1)
    size = torch.cat((length, exact[..., rope.rotary_dim :].abs()), dim=-1)
    _, exponent = torch.frexp(size.clamp_min(info.smallest_normal))
    return info.eps * torch.exp2(exponent.double() - 1)
