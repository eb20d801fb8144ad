"""Names what serves a rotary embedding of vLLM's natively: class and method, and the operators in it that rotate."""

import re
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rope_patch.cli import layout

ROTATES = re.compile("rope|rotary")


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function).removesuffix(".default"))
        return function(*args, **(kwargs or {}))


def named(module: Any, worker: Any) -> str:
    """Such as ``AscendRotaryEmbedding.forward_oot: vllm.npu_rotary_embedding``. rope_patch is disabled meanwhile."""
    method = getattr(getattr(module, "_forward_method", None), "__name__", "forward")
    name = f"{type(module).__name__}.{method}"
    several = len(getattr(module, "mrope_section", None) or getattr(module, "xdrope_section", None) or ())
    positions = torch.zeros((several, 2) if several else 2, dtype=torch.int64, device=worker.device)
    table = getattr(module, "cos_sin_cache", None)
    dtype = torch.float32 if table is None else table.dtype
    query, key = (torch.zeros(2, module.head_size, dtype=dtype, device=worker.device) for _ in range(2))
    seen = _Seen()
    try:
        with worker.step(module, positions), seen:
            module(positions, *layout.given(module, query, key))
    except Exception:  # the verdict on it says more
        return name
    operators = dict.fromkeys(name for name in seen.names if ROTATES.search(name))
    return f"{name}: {', '.join(operators) or 'PyTorch'}"
