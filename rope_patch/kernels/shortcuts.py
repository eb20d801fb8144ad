"""Fast ways to a device that PyTorch's and Triton's generated code uses, where the public functions are slower.

Where a version does not have such a way, the public function is used.
"""

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import triton


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` the current one, since Triton launches on that."""
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return guard(device) if guard and device.index is not None else nullcontext()


@functools.cache
def device_getter(device_type: str) -> Callable[[], int]:
    """A function that returns the current device's index, and does not check at each call that it is initialised."""
    module, name = {"npu": ("torch_npu._C", "_npu_getDevice")}.get(device_type, ("torch._C", "_cuda_getDevice"))
    getter: Callable[[], int] = getattr(sys.modules.get(module), name, getattr(torch, device_type).current_device)
    return getter


@functools.cache
def stream_getter(device_type: str, queued: bool = False) -> Callable[[int], int]:
    """A function that returns the current stream of a device, given its index.

    torch-npu puts its operators into a task queue, and another thread moves them from there to the stream. A launch
    that goes directly to the stream must wait until the queue is empty, or it would overtake them; the function then
    waits. A launch that is ``queued`` itself is in order, and waiting would cost each layer the time that the queue
    saves.
    """
    getter: Callable[[int], int] | None = None
    if device_type == "npu":  # triton-ascend's driver calls the second one, after two imports at each call
        module = sys.modules.get("torch_npu._C")
        names = ["_npu_getCurrentRawStreamNoWait"] if queued else []  # since torch-npu 26.0.0
        names.append("_npu_getCurrentRawStream")
        getter = next((getattr(module, name) for name in names if hasattr(module, name)), None)
    return getter or triton.runtime.driver.active.get_current_stream


Allocator = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor]
ALLOCATORS = {
    "npu": ("torch_npu._C", "_empty_strided_npu"),
    "cuda": ("torch._C._dynamo.guards", "_empty_strided_cuda"),
}


@functools.cache
def allocator(device: torch.device) -> Allocator:
    """A function that returns an uninitialised tensor on ``device``, the current one, given shape, strides and dtype.

    The code that PyTorch's compiler generates allocates through functions that bypass the dispatcher. Where a version
    has none, or one that does not give what is expected, ``empty_strided`` is used.
    """
    module, name = ALLOCATORS.get(device.type, ("", ""))
    entry: Allocator | None = getattr(sys.modules.get(module), name, None)
    try:
        made = entry((2, 3), (3, 1), torch.float16) if entry else torch.empty(0)
        if entry and (made.shape, made.stride(), made.dtype, made.device) == ((2, 3), (3, 1), torch.float16, device):
            return entry
    except Exception:  # another version's function, which takes other arguments
        pass
    return functools.partial(_empty, device)


def _empty(device: torch.device, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device=device)
