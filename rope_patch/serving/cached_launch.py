"""A cached launch: starts the kernel for a call whose layout was served before, given the call's addresses."""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import allocator, device_getter, stream_getter
from rope_patch.serving.call import Call

Addresses = tuple[int | None, ...]
Results = tuple[Any, ...]  # tensors; None for one that is missing
# Takes the results, were they all in place (None: there is no such tensor); the addresses of what may be written; and
# those of what is only read. Returns the results. Returns None, with nothing done, if another device is current, or if
# two tensors overlap and would be written twice.
CachedLaunch = Callable[[Results, Addresses, Addresses], Results | None]
# Takes what a cached launch raised, and whether the kernel may have been started; raises what the dispatch expects.
Failed = Callable[[Exception, bool], NoReturn]


def cached_launch(
    runner: Runner, launch: Launch, call: Call, clashing: tuple[int, int], served: list[int], failed: Failed
) -> CachedLaunch:
    """A function that serves calls with the layout of ``call``.

    All it needs is in local variables, since looking things up at each call would cost time.
    """
    device = call.device
    index = device.index
    current_device, current_stream = device_getter(device.type), stream_getter(device.type, runner.queued)
    programs, run, before, after = launch.programs, runner.run, runner.before, (*launch.numbers, *runner.after)
    empty, (least, most) = allocator(device), clashing
    makers = [
        new and partial(empty, tuple(new.shape), torch.empty(new.shape, device="meta").stride(), new.dtype)
        for new in call.results
    ]
    any_new, none = any(makers), (None,) * len(makers)

    # The argument ``kernel`` is never passed: its default value keeps the compiled kernel loaded.
    def serve(results: Results, written: Addresses, read: Addresses, kernel: object = runner) -> Results | None:
        if current_device() != index or (most and least < written[1] - written[0] < most):  # type: ignore[operator]
            return None
        out: Any = none
        try:
            if any_new:
                made: list[Any] = []
                out = []
                for make in makers:
                    if make is None:
                        made.append(results[len(made)])
                        out.append(None)
                    else:
                        tensor = make()
                        made.append(tensor)
                        out.append(tensor.data_ptr())
                results = tuple(made)
            stream = current_stream(index)
        except Exception as error:
            failed(error, False)
        try:
            run(programs, 1, 1, stream, *before, *written, *out, *read, *after)
            served[0] += 1
        except Exception as error:
            failed(error, True)
        return results

    return serve
