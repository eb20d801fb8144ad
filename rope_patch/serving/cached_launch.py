"""A cached launch: starts the kernel for a call whose layout was served before, given the call's addresses."""

from collections.abc import Callable
from typing import NoReturn

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import allocator, device_getter, stream_getter
from rope_patch.serving.call import Pair
from rope_patch.serving.outputs import Outputs

# Takes the two tensors that are written (the second may be None), their addresses, and those of the others. Returns the
# results. Returns None, with nothing done, if another device is current, or if the two overlap and would be written
# twice.
CachedLaunch = Callable[..., Pair | None]
# Takes what a cached launch raised, and whether the kernel may have been started; raises what the dispatch expects.
Failed = Callable[[Exception, bool], NoReturn]


def cached_launch(
    runner: Runner, launch: Launch, written: Pair, out: Outputs, served: list[int], failed: Failed
) -> CachedLaunch:
    """A function that serves calls with the layout of ``written``.

    All it needs is in local variables, since looking things up at each call would cost time.
    """
    like_first, like_second = written
    device, dtype, index = like_first.device, like_first.dtype, like_first.device.index
    first_fresh, second_fresh = (new is not None for new in out.new)
    current_device, current_stream = device_getter(device.type), stream_getter(device.type, runner.queued)
    programs, run, before, after = launch.programs, runner.run, runner.before, (*launch.numbers, *runner.after)
    shape, strides = _contiguous(like_first)
    second_shape, second_strides = _contiguous(like_first if like_second is None else like_second)
    empty = allocator(device)
    span, second_span = out.spans

    # The argument ``kernel`` is never passed: its default value keeps the compiled kernel loaded.
    def serve(
        first: torch.Tensor, second: torch.Tensor | None, a: int, b: int | None, *others: int, kernel: object = runner
    ) -> Pair | None:
        if current_device() != index or (second_span and b is not None and a < b + second_span and b < a + span):
            return None
        a_out = b_out = None
        try:
            if first_fresh:
                first = empty(shape, strides, dtype)
                a_out = first.data_ptr()
            if second_fresh:
                second = empty(second_shape, second_strides, dtype)
                b_out = second.data_ptr()
            stream = current_stream(index)
        except Exception as error:
            failed(error, False)
        try:
            run(programs, 1, 1, stream, *before, a, b, a_out, b_out, *others, *after)
            served[0] += 1
        except Exception as error:
            failed(error, True)
        return first, second

    return serve


def _contiguous(tensor: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape, and the strides of a contiguous tensor of that shape."""
    return tuple(tensor.shape), torch.empty(tensor.shape, device="meta").stride()
