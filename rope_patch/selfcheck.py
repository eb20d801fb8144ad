"""Trust: a kernel serves a signature only after it was right about it once, on this device.

The engine's own warm-up proves nothing, since its positions are all zero. So the first time that a signature is seen,
each tile height it can use is run on random q and k, with positions spread over the real cache, and every lane is
compared with fp64 on the host. That also compiles the kernel before it is needed.
"""

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from rope_patch import report, settings
from rope_patch.kernels import launcher, reference
from rope_patch.kernels.launch import Call, Heads, Kernel, Launch, current_stream, device_facts, is_big, memory, planned
from rope_patch.kernels.launcher import Launcher
from rope_patch.kernels.plan import Device, Plan, make_plan, plans_of

SCRATCH_BYTES = 2**20  # at most: vLLM's memory profiling must count what it counted without us
ALIGNMENT = 16  # bytes; Triton compiles one kernel for pointers that are multiples of it, and another for others

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
    return (
        "neox" if call.is_neox_style else "gpt-j",
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
    device = device_facts(call.query.tensor.device)
    fault = ""
    for budget in (device, replace(device, tile_bytes=device.tile_bytes // 2)):
        launchers: dict[Kernel, Launcher] = {}
        try:
            plans = plans_of(call.shape(not (query_in_place and key_in_place)), budget)
            report.plans[signature] = [asdict(plan) for plan in plans]
            for plan in plans if settings.current().check else ():
                launchers |= _try(call, plan, budget, query_in_place, key_in_place)
            if fault:
                report.logger.info("rope_patch: smaller tiles are used, since %s", fault)
            return Trusted(budget, launchers, report.served[signature])
        except _Wrong as error:
            fault = fault or str(error)
        except Exception as error:  # a compile failure, an overflowing unified buffer, an internal that moved
            fault = fault or _said(error)
    return fault


class _Wrong(Exception):
    """The kernel ran, and its result is not to be used."""


class _Trial(NamedTuple):
    """Synthetic q or k, what it was before, and where its rotation goes (None: in place)."""

    name: str
    heads: Heads
    before: torch.Tensor
    out: torch.Tensor | None

    def renew(self) -> None:
        self.heads.tensor.copy_(self.before)
        if self.out is not None:
            self.out.fill_(float("nan"))


def _try(call: Call, plan: Plan, device: Device, query_in_place: bool, key_in_place: bool) -> dict[Kernel, Launcher]:
    """Run ``plan`` on synthetic tensors: two full tiles and a tail where the scratch allows, one full tile at least.

    Returns the kernel's own launcher, if that starts it rightly too; raises ``_Wrong`` if Triton's way does not.
    """
    copies = 1 if query_in_place and key_in_place else 2
    rows = sum(copies * heads.num_heads + 1 for heads in _both(call))
    per_token = rows * call.head_size * call.query.tensor.element_size()
    full = plan.block_tokens
    num_tokens = next((n for n in (2 * full + 1, full + 1, full) if n * per_token <= SCRATCH_BYTES), 0)
    if not num_tokens:
        raise _Wrong(f"a tile of {full} tokens takes more than the {SCRATCH_BYTES} bytes that its first-use check may")
    generator = torch.Generator("cpu").manual_seed(0)  # not the global one: the model's draws stay what they were
    spread = torch.linspace(call.cos_sin_cache.shape[0] - 1, 0, num_tokens, dtype=torch.float64, device="cpu").long()
    positions = _placed(spread.to(call.positions.dtype), (1,), call.positions)
    query = _trial("query", call.query, num_tokens, call.head_size, query_in_place, generator)
    key = call.key and _trial("key", call.key, num_tokens, call.head_size, key_in_place, generator)
    call = call._replace(positions=positions, query=query.heads, key=key and key.heads)
    work, outputs = planned(call, plan, device), (query.out, key and key.out)
    arguments = *memory(call, *outputs), *work.numbers
    found = launcher.recorded(lambda: work.on(call, *outputs), work.programs, arguments)
    if found and not _fault(call, query, key, lambda: _start(found, call, work, outputs)):
        return {work.kernel: found}
    fault = _fault(call, query, key, lambda: work.on(call, *outputs))
    if fault:
        raise _Wrong(fault)
    return {}


def _start(found: Launcher, call: Call, work: Launch, outputs: tuple[torch.Tensor | None, torch.Tensor | None]) -> None:
    addresses = [tensor if tensor is None else tensor.data_ptr() for tensor in memory(call, *outputs)]
    found.start(work.programs, current_stream(call.query.tensor.device), (*addresses, *work.numbers))


def _fault(call: Call, query: _Trial, key: _Trial | None, start: Callable[[], object]) -> str | None:
    """What is wrong with the trials' rotation by ``start``, every lane compared with fp64."""
    cache_rows = call.cos_sin_cache.index_select(0, call.positions).cpu()
    for trial in filter(None, (query, key)):
        trial.renew()
    start()
    for trial in filter(None, (query, key)):
        rotated = (trial.heads.tensor if trial.out is None else trial.out).cpu().double()
        arguments = (torch.arange(len(cache_rows), device="cpu"), trial.before, cache_rows)
        exact = reference.rotate(*arguments, call.rotary_dim, call.is_neox_style, torch.float64)
        bound = reference.error_bound(*arguments, call.rotary_dim, call.is_neox_style)
        wrong = ~((rotated - exact).abs() <= bound)  # NaN is wrong, and so is a pass-through lane that moved
        if wrong.any():
            return f"first-use check failed: {int(wrong.sum())} of {wrong.numel()} {trial.name} lanes wrong"
    return None


def _both(call: Call) -> list[Heads]:
    return [heads for heads in (call.query, call.key) if heads]


def _trial(
    name: str, heads: Heads, num_tokens: int, head_size: int, in_place: bool, generator: torch.Generator
) -> _Trial:
    """Random heads, their rows a head apart unless in place: strides are run-time arguments."""
    shape = (num_tokens, heads.num_heads, head_size)
    strides = ((heads.num_heads + (0 if in_place else 1)) * head_size, head_size, 1)
    values = torch.randn(shape, generator=generator, device="cpu").to(heads.tensor.dtype)
    tensor = _placed(values, strides, heads.tensor)
    out = None if in_place else torch.full(shape, float("nan"), dtype=values.dtype, device=tensor.device)
    return _Trial(name, Heads(tensor, heads.num_heads, strides[0], strides[1]), values, out)


def _placed(values: torch.Tensor, strides: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """``values`` on ``like``'s device, with these strides, and no better aligned than ``like`` is."""
    offset = 0 if like.data_ptr() % ALIGNMENT == 0 else 1
    extent = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    memory = torch.empty(offset + extent, dtype=values.dtype, device=like.device)
    placed = memory.as_strided(values.shape, strides, offset)
    placed.copy_(values)
    return placed
