"""Trust: a kernel serves a signature only after it was right about it once, on this device.

The engine's own warm-up proves nothing, since its positions are all zero. So the first time that a signature is seen,
each tile height it can use is run on random q and k, with positions spread over the real cache, and every lane is
compared with fp64 on the host. That also compiles the kernel before it is needed.
"""

import threading
from dataclasses import asdict
from typing import NamedTuple

import torch

from rope_patch import report, settings
from rope_patch.kernels import reference
from rope_patch.kernels.launch import Call, Heads, device_facts, is_wide, launch
from rope_patch.kernels.plan import Plan, make_plan, token_blocks

SCRATCH_BYTES = 2**20  # at most: vLLM's memory profiling must count what it counted without us
ALIGNMENT = 16  # bytes; Triton compiles one kernel for pointers that are multiples of it, and another for others

Signature = tuple[object, ...]
_lock = threading.RLock()
_faults: dict[Signature, str | None] = {}


def launch_trusted(call: Call, query_out: torch.Tensor | None, key_out: torch.Tensor | None) -> str | None:
    """Launch if the kernel is to be trusted with this call. Returns why it was not launched, or None if it was.

    A signature is examined at first sight, and what was found is remembered. A kernel that fails to start after all is
    retired: a launch raises before anything runs, so the tensors are as they were.
    """
    if call.positions.numel() == 0:
        return None
    signature = _signature(call, query_out is None, key_out is None)
    try:
        fault = _faults[signature]
    except KeyError:
        if _capturing(call.query.tensor.device):
            report.outcomes[signature, "first seen during graph capture"] += 1
            return "first seen during graph capture"
        with _lock:
            if signature not in _faults:
                _remember(signature, _examine(signature, call, query_out is None, key_out is None))
        fault = _faults[signature]
    if fault is None:
        try:
            launch(call, query_out, key_out)
        except Exception as error:
            fault = _said(error)
            _remember(signature, fault)
    report.outcomes[signature, fault] += 1
    return fault


def forget() -> None:
    """Check every signature anew, for tests and after a kernel cache was cleared."""
    _faults.clear()
    report.signatures.clear()
    report.outcomes.clear()
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
        f"cache {call.cos_sin_cache.dtype}{' wide' if is_wide(call.cos_sin_cache) else ''}",
        call.positions.dtype,
        "aligned" if _aligned(call) else "unaligned",
        query.tensor.device,
    )


def _aligned(call: Call) -> bool:
    tensors = (call.positions, call.cos_sin_cache, call.query.tensor, (call.key or call.query).tensor)
    return all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)


def _remember(signature: Signature, fault: str | None) -> None:
    _faults[signature] = fault
    words = report.words(signature)
    report.signatures[words] = fault
    if fault:
        report.warn_once(f"rope_patch: native rotary embedding for {words}: {fault}")


def _capturing(device: torch.device) -> bool:
    module = getattr(torch, device.type, None)
    capturing = getattr(module, "is_current_stream_capturing", None)
    return bool(capturing and capturing())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-300:]}"


def _examine(signature: Signature, call: Call, query_in_place: bool, key_in_place: bool) -> str | None:
    try:
        device = device_facts(call.query.tensor.device)
        for block in token_blocks(call.shape, device):
            plan = make_plan(call.shape, block * device.max_programs, device)
            report.plans[signature].append(asdict(plan))
            found = _try(call, plan, query_in_place, key_in_place) if settings.current().check else None
            if found:
                return found
    except Exception as error:  # a compile failure, an overflowing unified buffer, an internal that moved
        return _said(error)
    return None


class _Trial(NamedTuple):
    """Synthetic q or k, what it was before, and where its rotation goes (None: in place)."""

    name: str
    heads: Heads
    before: torch.Tensor
    out: torch.Tensor | None


def _try(call: Call, plan: Plan, query_in_place: bool, key_in_place: bool) -> str | None:
    """Run ``plan`` on synthetic tensors: two full tiles and a tail where the scratch allows, one full tile at least."""
    per_token = sum(4 * heads.num_heads * call.head_size * heads.tensor.element_size() for heads in _both(call))
    full = plan.block_tokens
    num_tokens = next((n for n in (2 * full + 1, full + 1, full) if n * per_token <= SCRATCH_BYTES), 0)
    if not num_tokens:
        return f"a tile of {full} tokens takes more than the {SCRATCH_BYTES} bytes that its first-use check may"
    generator = torch.Generator("cpu").manual_seed(0)  # not the global one: the model's draws stay what they were
    rows = torch.linspace(call.cos_sin_cache.shape[0] - 1, 0, num_tokens, dtype=torch.float64, device="cpu").long()
    positions = _placed(rows.to(call.positions.dtype), (1,), call.positions)
    cache_rows = call.cos_sin_cache.index_select(0, positions).cpu()
    query = _trial("query", call.query, num_tokens, call.head_size, query_in_place, generator)
    key = call.key and _trial("key", call.key, num_tokens, call.head_size, key_in_place, generator)
    synthetic = call._replace(positions=positions, query=query.heads, key=key and key.heads)
    launch(synthetic, query.out, key and key.out, plan)
    for trial in filter(None, (query, key)):
        rotated = (trial.heads.tensor if trial.out is None else trial.out).cpu().double()
        arguments = (torch.arange(num_tokens, device="cpu"), trial.before, cache_rows)
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
    """Random heads; rows twice as far apart as they are wide unless in place, since strides are run-time arguments."""
    shape = (num_tokens, heads.num_heads, head_size)
    strides = (heads.num_heads * head_size * (1 if in_place else 2), head_size, 1)
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
