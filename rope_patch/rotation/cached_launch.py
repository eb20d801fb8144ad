"""A cached launch: starts the kernel for a call whose layout was served before, given the call's addresses."""

from collections.abc import Callable
from typing import NoReturn

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.runner import Runner
from rope_patch.kernels.shortcuts import allocator, device_getter, stream_getter

Rotated = tuple[torch.Tensor, torch.Tensor | None]
# Takes query, key, and the addresses of query, key, cache and positions. Returns the rotated tensors. Returns
# None, with nothing done, if another device is current, or if query and key overlap and would be rotated twice.
CachedLaunch = Callable[[torch.Tensor, torch.Tensor | None, int, int | None, int, int], Rotated | None]
# Takes what a cached launch raised, and whether the kernel may have been started; raises what the dispatch expects.
Failed = Callable[[Exception, bool], NoReturn]


def cached_launch(
    runner: Runner,
    launch: Launch,
    query: torch.Tensor,
    key: torch.Tensor | None,
    query_fresh: bool,
    key_fresh: bool,
    spans: tuple[int, int],
    served: list[int],
    failed: Failed,
) -> CachedLaunch:
    """A function that serves calls with the layout of ``query`` and ``key``.

    All it needs is in local variables, since looking things up at each call would cost time.
    """
    device, dtype, index = query.device, query.dtype, query.device.index
    current_device, current_stream = device_getter(device.type), stream_getter(device.type, runner.queued)
    programs, run, before, after = launch.programs, runner.run, runner.before, (*launch.numbers, *runner.after)
    shape, strides = tuple(query.shape), _contiguous(query)
    key_shape, key_strides = (tuple(key.shape), _contiguous(key)) if key is not None else (shape, strides)
    empty = allocator(device)
    q_span, k_span = spans

    # The argument ``kernel`` is never passed: its default value keeps the compiled kernel loaded.
    def serve(
        query: torch.Tensor, key: torch.Tensor | None, q: int, k: int | None, c: int, p: int, kernel: object = runner
    ) -> Rotated | None:
        if current_device() != index or (k_span and k is not None and q < k + k_span and k < q + q_span):
            return None
        q_out = k_out = None
        try:
            if query_fresh:
                query = empty(shape, strides, dtype)
                q_out = query.data_ptr()
            if key_fresh:
                key = empty(key_shape, key_strides, dtype)
                k_out = key.data_ptr()
            stream = current_stream(index)
        except Exception as error:
            failed(error, False)
        try:
            run(programs, 1, 1, stream, *before, q, k, q_out, k_out, c, p, *after)
            served[0] += 1
        except Exception as error:
            failed(error, True)
        return query, key

    return serve


def _contiguous(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides of a contiguous tensor of the same shape."""
    return torch.empty(tensor.shape, device="meta").stride()
