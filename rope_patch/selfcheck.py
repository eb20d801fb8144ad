"""Trust: a kernel serves a signature only after it was right about it once, on this device.

The engine's own warm-up proves nothing, since its positions are all zero. So the first time that a signature is seen,
each tile height it can use is run on random q and k, with positions spread over the real cache, and every lane is
compared with fp64 on the host. That also compiles the kernel before it is needed.
"""

import threading
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from rope_patch import hooks, report, settings, trial
from rope_patch.kernels.launch import Call, Kernel, device_facts, is_big, planned
from rope_patch.kernels.launcher import Launcher
from rope_patch.kernels.plan import Device, make_plan, plans_of
from rope_patch.trial import ALIGNMENT

Signature = tuple[object, ...]


class Trusted(NamedTuple):
    """A signature's kernels: right about it once, when planned for ``device``."""

    device: Device
    launchers: dict[Kernel, Launcher]  # those that were found, by ``Launch.kernel``; none without a check
    served: list[int]  # the count of its calls, in ``report``


_lock = threading.RLock()
_found: dict[Signature, Trusted | str] = {}


def launch_trusted(call: Call, query_out: torch.Tensor | None, key_out: torch.Tensor | None) -> Trusted | str:
    """Launch at least one token if the kernel is to be trusted with the call; else return why it was not launched.

    A signature is examined at first sight, and what was found is remembered. A kernel that fails to start after all is
    retired: a launch raises before anything runs, so the tensors are as they were.
    """
    in_place = query_out is None, key_out is None
    signature = _signature(call, *in_place)
    found = _found.get(signature)
    if found is None:
        if _capturing(call.query.tensor.device):
            report.declined[signature, "first seen during graph capture"] += 1
            return "first seen during graph capture"
        with _lock:
            found = _found.get(signature)
            if found is None:
                found = _remember(signature, _examine(signature, call, *in_place))
    if isinstance(found, Trusted):
        try:
            plan = make_plan(call.shape(not all(in_place)), call.positions.numel(), found.device)
            planned(call, plan, found.device).on(call, query_out, key_out)
            report.served[signature][0] += 1
        except Exception as error:
            found = _remember(signature, _said(error))
    if isinstance(found, str):
        report.declined[signature, found] += 1
    return found


def forget() -> None:
    """Check every signature anew, for tests and after a kernel cache was cleared."""
    _found.clear()
    report.signatures.clear()
    report.served.clear()
    report.declined.clear()
    report.plans.clear()


def _signature(call: Call, query_in_place: bool, key_in_place: bool) -> Signature:
    """All that the compiled kernel depends on, but for the number of tokens, whose classes are examined together."""
    query, key = call.query, call.key
    itemsize = query.tensor.element_size()
    return (
        "neox" if call.is_neox_style else "gpt-j" if call.whole_words or itemsize != 2 else "gpt-j of odd strides",
        query.tensor.dtype,
        f"heads {query.num_heads}/{key.num_heads if key else 0}",
        f"head_size {call.head_size}",
        f"rotary_dim {call.rotary_dim}",
        "query in place" if query_in_place else "query fresh",
        "no key" if key is None else "key in place" if key_in_place else "key fresh",
        f"cache {call.cos_sin_cache.dtype}{' big' if is_big(call.cos_sin_cache) else ''}",
        call.positions.dtype,
        _alignment(call),
        query.tensor.device,
    )


def _alignment(call: Call) -> str:
    tensors = (call.positions, call.cos_sin_cache, call.query.tensor, (call.key or call.query).tensor)
    unaligned = [str(i) for i, tensor in enumerate(tensors) if tensor.data_ptr() % ALIGNMENT]
    return f"unaligned {' '.join(unaligned)}" if unaligned else "aligned"


def _remember(signature: Signature, found: Trusted | str) -> Trusted | str:
    _found[signature] = found
    words = report.words(signature)
    report.signatures[words] = None if isinstance(found, Trusted) else found
    if isinstance(found, str):
        report.warn_once(f"rope_patch: native rotary embedding for {words}: {found}")
    return found


def _capturing(device: torch.device) -> bool:
    module = getattr(torch, device.type, None)
    capturing = getattr(module, "is_current_stream_capturing", None)
    return bool(capturing and capturing())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-300:]}"


def _examine(signature: Signature, call: Call, query_in_place: bool, key_in_place: bool) -> Trusted | str:
    """Every plan of the call's shape; if one fails, every plan for half of the device's fast memory, once."""
    hooks.announce()
    device = device_facts(call.query.tensor.device)
    fault = ""
    for budget in (device, replace(device, tile_bytes=device.tile_bytes // 2)):
        launchers: dict[Kernel, Launcher] = {}
        try:
            plans = plans_of(call.shape(not (query_in_place and key_in_place)), budget)
            report.plans[signature] = [asdict(plan) for plan in plans]
            for plan in plans if settings.current().check else ():
                launchers |= trial.run(call, plan, budget, query_in_place, key_in_place)
            if fault:
                report.warn_once(f"rope_patch: smaller tiles are used, since {fault}; please report it")
            return Trusted(budget, launchers, report.served[signature])
        except trial.Wrong as error:
            fault = fault or str(error)
        except Exception as error:  # a compile failure, an overflowing unified buffer, an internal that moved
            fault = fault or _said(error)
    return fault
