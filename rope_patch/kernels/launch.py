"""Start a kernel, whichever it is, through Triton; and what plans need to know of a device."""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from rope_patch.kernels.arithmetic import turned
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Constant, Device

# TRITON_INTERPRET=1, read by Triton when kernels were decorated: they run on the CPU, in Python.
INTERPRETED = isinstance(turned, InterpretedFunction)

KIB = 1024
UNIFIED_BUFFER = 192 * KIB  # of one vector core, 910B1 to 910B4 and A3 (CANN's platform configuration files)
ALIGNMENT = 16  # bytes; Triton compiles another kernel for a pointer that is not a multiple of it


@functools.cache
def device_facts(device: torch.device) -> Device:
    """What the plan needs to know of ``device``; asks the driver once, so the device must be initialised."""
    if INTERPRETED:  # small enough that ordinary tests cross tiles; and few programs, since each takes milliseconds
        return Device(MAX_TILE_OFFSET, tile_bytes=256 * KIB, powers_of_two=True)
    if device.type == "npu":
        properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
        cores = properties["num_vectorcore"]
        return Device(max_programs=cores, tile_bytes=UNIFIED_BUFFER, powers_of_two=False)
    # A proxy, for measurements only; padded_plan.py says where the numbers come from.
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return Device(
        max_programs=MAX_TILE_OFFSET,
        tile_bytes=32 * KIB,
        powers_of_two=True,
        stride_unit=16,
        busy_programs=processors,
    )


def unaligned(*tensors: torch.Tensor) -> str:
    """Which of the tensors, by their numbers, do not begin where Triton takes them as aligned."""
    numbers = [str(i) for i, tensor in enumerate(tensors) if tensor.data_ptr() % ALIGNMENT]
    return f"unaligned {' '.join(numbers)}" if numbers else "aligned"


class Launch(NamedTuple):
    """A launch worked out: everything but which memory."""

    function: Any  # the Triton kernel
    programs: int
    numbers: tuple[int, ...]  # the kernel's integer arguments
    constants: dict[str, Constant]
    words: int = 0  # how many of the first tensors the kernel takes as int32

    def on(self, call: Any, *outputs: torch.Tensor | None) -> Any:
        """Start it through Triton on ``call.memory(*outputs)``; returns Triton's compiled kernel (None from an
        interpreter)."""
        tensors = call.memory(*outputs)
        words = (x if x is None else triton.reinterpret(x, tl.int32) for x in tensors[: self.words])
        return self.function[(self.programs,)](*words, *tensors[self.words :], *self.numbers, **self.constants)
