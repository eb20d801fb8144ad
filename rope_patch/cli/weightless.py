"""While it is entered, tensors of more than a few elements have no memory: they are on the meta device.

``torch.device("meta")`` would do for most models of vLLM. Others read a number of a small tensor while they are built,
or ask for a large one on a device of their choice.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._device import _device_constructors

SMALL = 4096  # elements
MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.contiguous)


class Weightless(TorchFunctionMode):
    """Where a tensor without memory meets one with memory, the result has none."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _device_constructors():
            made = function(*args, **{**kwargs, "device": "meta"})
            return function(*args, **{**kwargs, "device": "cpu"}) if made.numel() <= SMALL else made
        try:
            return function(*args, **kwargs)
        except (RuntimeError, NotImplementedError):
            if function in MOVES and args[0].is_meta:
                return args[0].to(dtype) if (dtype := _dtype(args, kwargs)) else args[0]
            args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
            return function(*args, **kwargs)


def _dtype(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype | None:
    return next((value for value in (*args[1:], *kwargs.values()) if isinstance(value, torch.dtype)), None)


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **keywords: NoAttention if name == "get_impl_cls" else None


class NoAttention(metaclass=_Anything):
    """An attention backend that computes nothing, for attention that vLLM's CPU platform has no backend for."""

    accept_output_buffer = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return 1 if name.endswith("_size") else None
