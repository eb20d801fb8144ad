"""A call, from vLLM's tensors to a launch; and, for calls of a form that was served before, the short way there.

In eager mode a layer calls with the same shapes and strides as the one before it, so what was worked out for a form is
kept: a call of a known form takes one look-up, its output tensors, and the kernel's own launcher.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

from rope_patch import selfcheck
from rope_patch.arguments import Refusal, call_of, refusal_of
from rope_patch.kernels.launch import Call, planned, stream_getter
from rope_patch.kernels.launcher import Launcher
from rope_patch.kernels.plan import make_plan
from rope_patch.trial import ALIGNMENT

Rotated = tuple[torch.Tensor, torch.Tensor | None]
KEPT = 1024  # forms; token counts differ without end, and a step needs one or two of them


class Way(NamedTuple):
    """How to serve a call of a known form."""

    launcher: Launcher
    programs: int
    numbers: tuple[int, ...]
    query_fresh: bool
    key_fresh: bool
    current_device: Callable[[], int]
    current_stream: Callable[[int], int]
    served: list[int]


_ways: dict[tuple[object, ...], Way] = {}


def rotate(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    always_fresh: bool,
) -> Rotated | Refusal | str:
    """Rotate plain tensors; arguments as ``rope_patch.rotary.serve``'s.

    Outputs are new contiguous tensors where the inputs are strided or ``always_fresh`` is set, else the inputs, rotated
    in place. A ``Refusal`` or a string says why nothing was done: what is wrong with the arguments, or with the kernel.
    """
    device = query.device
    q, c, p = query.data_ptr(), cos_sin_cache.data_ptr(), positions.data_ptr()
    k, of_key = None, None
    low = q | c | p
    if key is not None:
        k = key.data_ptr()
        of_key = (key.shape, key.stride(), key.dtype, key.device)
        low |= k
    form = (
        query.shape, query.stride(), query.dtype, device, of_key,
        positions.shape, positions.stride(), positions.dtype, positions.device,
        cos_sin_cache.shape, cos_sin_cache.stride(), cos_sin_cache.dtype, cos_sin_cache.device,
        head_size, rotary_dim, is_neox_style, always_fresh,
        low % ALIGNMENT and (q % ALIGNMENT, (k or 0) % ALIGNMENT, c % ALIGNMENT, p % ALIGNMENT),
    )  # fmt: skip
    way = _ways.get(form)
    if way is not None and way.current_device() == device.index:
        rotated, q_out, rotated_key, k_out = query, None, key, None
        if way.query_fresh:
            rotated = _fresh(query)
            q_out = rotated.data_ptr()
        if way.key_fresh and key is not None:
            rotated_key = _fresh(key)
            k_out = rotated_key.data_ptr()
        try:
            way.launcher.start(way.programs, way.current_stream(device.index), (q, k, q_out, k_out, c, p, *way.numbers))
            way.served[0] += 1
            return rotated, rotated_key
        except Exception:  # nothing ran: Triton's own way will serve, or say what is wrong
            _ways.pop(form, None)
    with _current(device):
        arguments = positions, query, key, cos_sin_cache, head_size, rotary_dim
        call = refusal_of(*arguments) or call_of(*arguments, is_neox_style)
        return call if isinstance(call, Refusal) else _rotate(form, call, key, always_fresh)


def _rotate(form: tuple[object, ...], call: Call, key: torch.Tensor | None, always_fresh: bool) -> Rotated | str:
    query = call.query.tensor
    query_out = _fresh(query) if always_fresh or not query.is_contiguous() else None
    key_out = _fresh(key) if key is not None and (always_fresh or not key.is_contiguous()) else None
    if call.positions.numel() > 0:
        found = selfcheck.launch_trusted(call, query_out, key_out)
        if isinstance(found, str):
            return found
        plan = make_plan(call.shape(query_out is not None or key_out is not None), call.positions.numel(), found.device)
        work = planned(call, plan, found.device)
        launcher = found.launchers.get(work.kernel)
        if launcher:
            if len(_ways) >= KEPT:
                _ways.clear()
            kind = query.device.type
            of_device = getattr(torch, kind).current_device, stream_getter(kind)
            fresh = query_out is not None, key_out is not None
            _ways[form] = Way(launcher, work.programs, work.numbers, *fresh, *of_device, found.served)
    return query if query_out is None else query_out, key if key_out is None else key_out


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty(tensor.shape)  # contiguous; torch-npu warns of empty_like with a memory format


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes ``device`` the current one, on which Triton launches."""
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return guard(device) if guard and device.index is not None else nullcontext()


def forget() -> None:
    """Work everything out anew, for tests and after a kernel cache was cleared."""
    _ways.clear()
    selfcheck.forget()
