"""Check the rotary embeddings of a model on this machine's device against fp64: with rope_patch, and without it.

MODEL is a Hugging Face model folder or a config.json; only JSON is read. vLLM's own model code says how the model
rotates; where it cannot, the fields of config.json do. Without MODEL a built-in list is checked. The device is the NPU,
else the CUDA device, else the CPU, where Triton's interpreter runs the kernel for mainline Triton, slowly. Exit status
0: all right; 1: what serves here is wrong, or the kernel is; 2: it could not be found out.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rope_patch.cli import model
from rope_patch.cli.answer import Answer, CannotAnswer, printable, progress, table

if TYPE_CHECKING:
    import torch

    from rope_patch.cli.rope_config import RopeConfig
    from rope_patch.cli.sides import Both, Side

DTYPES = ("float16", "bfloat16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder or a config.json")
    parser.add_argument(
        "--tensor-parallel-size", "-tp", type=int, default=1, metavar="N", help="ranks to divide heads by"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="this one only (default: all)")


def act(options: argparse.Namespace) -> Answer:
    """Check every shape in every dtype, with progress on standard error."""
    found = model.selected(options.model, options.tensor_parallel_size)
    device = choose_device()
    dtypes = [options.dtype] if options.dtype else DTYPES
    results: list[Both] = []
    with contextlib.redirect_stdout(sys.stderr):  # vLLM and its plugins print there
        examine = _examiner(device)
        for number, (rope, dtype) in enumerate((rope, dtype) for rope in found.ropes for dtype in dtypes):
            progress(f"{number} of {len(found.ropes) * len(dtypes)}: {printable(rope.name)} {dtype} … ")
            results += examine(rope, dtype)
        progress("")
    from rope_patch.cli import verdict

    said = verdict.of(results)
    data = {
        "device": described(device), "ok": said.ok, "verdict": said.text, "way": found.way, "notes": found.notes,
        "results": [verdict.data(result) for result in results],
    }  # fmt: skip
    text = [
        f"From {found.way}.",
        *found.notes,
        "",
        _text(results),
        "",
        f"{described(device)}: {said.text}",
        *said.helps,
    ]
    return Answer(said.ok, data, "\n".join(text), unknown=said.unknown)


def _examiner(device: "torch.device") -> "Callable[[RopeConfig, str], list[Both]]":
    """Checks one shape in one dtype: in vLLM's module where there is vLLM, else the kernel by itself; and the fused
    operator that the model would meet, if any."""
    from rope_patch.cli import sides

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if importlib.util.find_spec("vllm") is None:
        return lambda rope, dtype: [sides.without_vllm(rope, dtype, device, "vLLM is not installed")]
    from rope_patch.cli.worker import Worker

    try:
        worker = Worker(device)
    except CannotAnswer as error:
        why = str(error)
        return lambda rope, dtype: [sides.without_vllm(rope, dtype, device, why)]
    from rope_patch.cli import fused

    def examined(rope: "RopeConfig", dtype: str) -> "list[Both]":
        met = fused.met(rope, dtype) if worker.on_ascend else None
        return [sides.of_vllm(rope, dtype, worker), *([fused.of(met, rope, dtype, worker)] if met else [])]

    return examined


def _text(results: "list[Both]") -> str:
    """One row a rotary embedding; what is alike in all dtypes is said once."""
    header = (
        "shape",
        "layers",
        "head",
        "rotary",
        "heads",
        "style",
        "sections",
        "scaling",
        "with rope_patch",
        "without",
    )
    rows = []
    for rope in dict.fromkeys(result.rope.name for result in results):
        alike = [result for result in results if result.rope.name == rope]
        first = alike[0].rope
        heads, style = f"{first.num_heads}/{first.num_kv_heads}", "neox" if first.is_neox_style else "gpt-j"
        shape = first.name, first.layers or "-", first.head_size, first.rotary_dim, heads, style, first.sections or "-"
        sides = (_cell([(r.dtype, r.with_it) for r in alike]), _cell([(r.dtype, r.without) for r in alike]))
        rows.append((*shape, first.scaling, *sides))
    return table(header, rows)


def _cell(sides: "list[tuple[str, Side]]") -> str:
    from rope_patch.cli import verdict

    said: dict[str, list[str]] = {}
    for dtype, side in sides:
        said.setdefault(verdict.of_side(side), []).append(dtype)
    if len(said) == 1:
        return next(iter(said))
    return "; ".join(f"{', '.join(dtypes)}: {words}" for words, dtypes in said.items())


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
