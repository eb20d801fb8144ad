"""What the kernel is measured against, each called as its users call it, on q and k as views of one qkv tensor.

A peer is a function of a ``Case`` that does the whole job once, rotation of ``case.query`` and ``case.key`` by
``case.positions``, and returns the results; ``None`` where the peer does not take the shape or dtype. Their code is
that of released packages, put into ``.peers`` by ``fetch.sh``.
"""

import ast
import datetime
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from scripts.bench_gpu.measuring import Case, Work

PEERS = Path(".peers")


def measured_with() -> dict[str, Any]:
    """What a file of results begins with: when, on which GPU, with which packages."""
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "peers": (PEERS / "versions").read_text().split("\n")[:-1],
    }


def flashinfer_flags() -> dict[str, Any]:
    """What its headers are compiled with."""
    include = str((PEERS / "flashinfer/data/include").resolve())
    flags = ["-O3", "-std=c++17", "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__",
             "-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_HALF2_OPERATORS__", "--expt-relaxed-constexpr",
             "-gencode=arch=compute_90,code=sm_90"]  # fmt: skip
    return {"extra_include_paths": [include], "extra_cuda_cflags": flags}


def flashinfer_module() -> Any:
    from torch.utils.cpp_extension import load

    return load("flashinfer_rope", [str(Path(__file__).with_name("flashinfer_rope.cu"))], **flashinfer_flags())


def flashinfer() -> Callable[[Case], Work | None]:
    """In place, with the fp32 cache that it takes only; head sizes 64, 128, 256, 512, 16 bits."""
    module = flashinfer_module()

    def peer(case: Case) -> Work | None:
        if case.head_size not in (64, 128, 256, 512) or case.query.dtype == torch.float32:
            return None
        cache = case.cos_sin_cache.float()
        q, k = case.heads(case.query), case.heads(case.key)

        def work() -> tuple[torch.Tensor, torch.Tensor]:
            module.rotate_in_place(q, k, cache, case.positions, not case.is_neox_style)
            return case.query, case.key

        return work

    return peer


def liger() -> Callable[[Case], Work | None]:
    """Its kernel takes cos and sin rows, gathered before the clock starts; it copies strided q and k. NeoX only."""
    module = _module("liger_rope", PEERS / "liger_kernel/ops/rope.py")

    def peer(case: Case) -> Work | None:
        if not case.is_neox_style or case.rotary_dim != case.head_size:
            return None
        half = case.rotary_dim // 2
        cos, sin = (t[:, :half].repeat(1, 2) for t in case.cos_sin_cache[case.positions].split(half, -1))

        def work() -> tuple[torch.Tensor, torch.Tensor]:
            q, k = (case.heads(t)[None].transpose(1, 2) for t in (case.query, case.key))
            q, k, _, _ = module.rope_forward(q, k, cos[None], sin[None])
            return tuple(t.transpose(1, 2)[0].flatten(-2) for t in (q, k))

        return work

    return peer


def liger_multimodal() -> Callable[[Case], Work | None]:
    """As ``liger``, for three positions a token: chunked sections."""
    module = _module("liger_mrope", PEERS / "liger_kernel/ops/qwen2vl_mrope.py")

    def peer(case: Case) -> Work | None:
        chunked = case.shape.axes == "".join(sorted(case.shape.axes, key="thw".index))
        if not (case.is_neox_style and case.rotary_dim == case.head_size and chunked):
            return None
        half = case.rotary_dim // 2
        rows = case.cos_sin_cache[case.positions]
        cos, sin = (t[..., :half].repeat(1, 1, 2)[:, None] for t in rows.split(half, -1))

        def work() -> tuple[torch.Tensor, torch.Tensor]:
            q, k = (case.heads(t)[None].transpose(1, 2) for t in (case.query, case.key))
            q, k, _, _ = module.qwen2vl_mrope_forward(q, k, cos, sin, [case.shape.axes.count(axis) for axis in "thw"])
            return tuple(t.transpose(1, 2)[0].flatten(-2) for t in (q, k))

        return work

    return peer


def vllm_multimodal() -> Callable[[Case], Work | None]:
    """vLLM 0.32's ``triton_mrope`` in place, as its op calls it: cosines and sines are gathered and copied first."""
    package = "vllm.model_executor.layers.rotary_embedding"
    _answer(
        {
            "vllm.platforms": {"current_platform": types.SimpleNamespace(is_rocm=lambda: False)},
            "vllm.triton_utils": {"tl": tl, "triton": triton},
            "vllm.utils.torch_utils": {"direct_register_custom_op": lambda **op: None},
            f"{package}.base": {"RotaryEmbeddingBase": object},
            f"{package}.yarn_scaling_rope": {"YaRNScalingRotaryEmbedding": object, "yarn_get_mscale": None},
        }
    )
    module = _module(f"{package}.mrope", PEERS / f"{package.replace('.', '/')}/mrope.py")

    def peer(case: Case) -> Work | None:
        interleaved = case.shape.axes[:3] == "thw"
        section = [case.shape.axes.count(axis) for axis in "thw"]

        def work() -> tuple[torch.Tensor, torch.Tensor]:
            numbers = case.head_size, case.rotary_dim, *section, interleaved, case.is_neox_style
            module._mrope_apply(case.positions, case.query, case.key, case.cos_sin_cache, *numbers)
            return case.query, case.key

        return work

    return peer


def vllm_ascend() -> Callable[[Case], Work | None]:
    """Its Triton kernel of 0.23.0, one program a multiprocessor as it starts one a core; it copies strided q and k."""
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    _answer(
        {
            "vllm.triton_utils": {"tl": tl, "triton": triton},
            "vllm_ascend.ops.triton.triton_utils": {"get_vectorcore_num": lambda: processors},
        }
    )
    module = _module("vllm_ascend_rope", PEERS / "vllm_ascend/ops/triton/rope.py")

    def peer(case: Case) -> Work | None:
        def work() -> tuple[torch.Tensor, torch.Tensor]:
            q, k = module.rope_forward_triton(
                case.heads(case.query),
                case.heads(case.key),
                cos_sin_cache=case.cos_sin_cache,
                positions=case.positions,
                rope_dim=case.rotary_dim,
                is_neox_style=case.is_neox_style,
            )
            return q.flatten(-2), k.flatten(-2)

        return work

    return peer


def vllm_native(compiled: bool) -> Callable[[Case], Work | None]:
    """vLLM's PyTorch implementation, as it is or through ``torch.compile``."""
    folder = PEERS / "vllm/model_executor/layers/rotary_embedding"
    space: dict[str, Any] = {"torch": torch}
    space["ApplyRotaryEmb"] = types.SimpleNamespace(
        forward_static=_function(folder / "common.py", "ApplyRotaryEmb", "forward_static", space)
    )
    forward = _function(folder / "base.py", "RotaryEmbedding", "forward_static", space)

    def peer(case: Case) -> Work | None:
        torch._dynamo.reset()
        rotate = torch.compile(forward, fullgraph=True, dynamic=False) if compiled else forward
        return lambda: rotate(
            case.positions, case.query, case.key, case.head_size, case.rotary_dim, case.cos_sin_cache,
            case.is_neox_style,
        )  # fmt: skip

    return peer


def _answer(modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Stands in for those modules, and for the packages that they are in."""
    for name, attributes in modules.items():
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            package = ".".join(parts[:count])
            sys.modules.setdefault(package, types.ModuleType(package))
        vars(sys.modules[name]).update(attributes)


def _module(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _function(path: Path, class_name: str, name: str, space: dict[str, Any]) -> Callable[..., Any]:
    """One static method, without its module's imports."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    for found in (node for node in classes if node.name.startswith(class_name)):
        for node in found.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                node.decorator_list = []
                exec(compile(ast.Module([node], []), str(path), "exec"), space)
                return space[name]
    raise LookupError(f"{path} has no {class_name}.{name}")
