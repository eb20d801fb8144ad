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
def stream_getter(device_type: str, queued: bool = False) -> Callable[[int], int]:
    """What gives the current stream of a device, by its index, for a launch that is ``queued`` or goes to it at once.

    torch-npu hands its operators to a queue, which a thread of its own empties into the stream. What goes to the stream
    at once has to wait until that queue is empty, or it would overtake them. What goes through the queue itself is in
    order as it is, and to wait would cost each layer what the queue is there to save.
    """
    getter: Callable[[int], int] | None = None
    if device_type == "npu":  # the second is what triton-ascend's driver calls, after two imports each time
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
