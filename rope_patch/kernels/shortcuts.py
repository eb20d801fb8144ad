"""The ways that PyTorch's and Triton's own generated code takes to a device: what the public functions come to, sooner.

Each is looked for, and where a version has none it is the public function.
"""

import functools
import sys
from collections.abc import Callable

import torch
import triton


@functools.cache
def device_getter(device_type: str) -> Callable[[], int]:
    """What gives the index of the current device, without asking each time whether it was initialised."""
    module, name = {"npu": ("torch_npu._C", "_npu_getDevice")}.get(device_type, ("torch._C", "_cuda_getDevice"))
    getter: Callable[[], int] = getattr(sys.modules.get(module), name, getattr(torch, device_type).current_device)
    return getter


@functools.cache
def stream_getter(device_type: str) -> Callable[[int], int]:
    """What gives the current stream of a device, by its index, as Triton would launch on it."""
    if device_type == "npu":
        try:  # what triton-ascend's driver calls, after two imports each time
            from torch_npu._C import _npu_getCurrentRawStream
        except ImportError:
            pass
        else:
            getter: Callable[[int], int] = _npu_getCurrentRawStream
            return getter
    getter = triton.runtime.driver.active.get_current_stream
    return getter


Allocator = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor]
ALLOCATORS = {
    "npu": ("torch_npu._C", "_empty_strided_npu"),
    "cuda": ("torch._C._dynamo.guards", "_empty_strided_cuda"),
}


@functools.cache
def allocator(device: torch.device) -> Allocator:
    """What gives an uninitialised tensor on ``device``, the current one, by its shape, strides and dtype.

    Code that PyTorch's compiler generates allocates through entries past the dispatcher; where a version has none, or
    none that gives what is expected, it is ``empty_strided``.
    """
    module, name = ALLOCATORS.get(device.type, ("", ""))
    entry: Allocator | None = getattr(sys.modules.get(module), name, None)
    try:
        made = entry((2, 3), (3, 1), torch.float16) if entry else torch.empty(0)
        if entry and (made.shape, made.stride(), made.dtype, made.device) == ((2, 3), (3, 1), torch.float16, device):
            return entry
    except Exception:  # another version's entry, called in another way
        pass
    return functools.partial(_empty, device)


def _empty(device: torch.device, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device=device)
