"""A cached launch: starts the kernel for a call whose layout was served before, given the call's addresses."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import allocator, device_getter, stream_getter
from rope_patch.serving.call import Call
from rope_patch.serving.outputs import apart

Addresses = tuple[int | None, ...]
Results = tuple[Any, ...]  # tensors; None for one that is missing
# Takes a list with the tensor that is written for each result (None: a new one), into which it puts the new ones; the
# addresses of what may be written; and those of what is only read. Returns the results. Returns None, with nothing
# done, if another device is current, or if two tensors overlap and would be written twice.
CachedLaunch = Callable[[list[Any], Addresses, Addresses], Results | None]
# Takes what a cached launch raised, and whether the kernel may have been started; raises what the dispatch expects.
Failed = Callable[[Exception, bool], NoReturn]


def cached_launch(runner: Runner, launch: Launch, call: Call, served: list[int], failed: Failed) -> CachedLaunch:
    """A function that serves calls with the layout of ``call``.

    All it needs is in local variables, since looking things up at each call would cost time.
    """
    device, index = call.device, call.device.index
    current_device, current_stream = device_getter(device.type), stream_getter(device.type, runner.queued)
    programs, run, before, after = launch.programs, runner.run, runner.before, (*launch.numbers, *runner.after)
    empty, two = allocator(device), apart(call)
    new = [(i, tuple(one.shape), _strides(one.shape), one.dtype) for i, one in enumerate(call.results) if one]
    none: list[int | None] = [None] * len(call.results)

    # The argument ``kernel`` is never passed: its default value keeps the compiled kernel loaded.
    def serve(results: list[Any], written: Addresses, read: Addresses, kernel: object = runner) -> Results | None:
        if current_device() != index:
            return None
        for i, j, i_span, j_span in two:
            if written[i] < written[j] + j_span and written[j] < written[i] + i_span:  # type: ignore[operator]
                return None
        out = none.copy()
        try:
            for i, shape, strides, dtype in new:
                tensor = results[i] = empty(shape, strides, dtype)
                out[i] = tensor.data_ptr()
            stream = current_stream(index)
        except Exception as error:
            failed(error, False)
        try:
            run(programs, 1, 1, stream, *before, *written, *out, *read, *after)
            served[0] += 1
        except Exception as error:
            failed(error, True)
        return tuple(results)

    return serve


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a contiguous tensor."""
    return torch.empty(shape, device="meta").stride()
