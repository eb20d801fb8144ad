"""Trust: a kernel serves a signature only after it was right about it once, on this device.

The engine's own warm-up proves nothing, since its positions are all zero. So the first time that a signature is seen,
each tile height it can use is run on random q and k, with positions spread over the real cache, and every lane is
compared with fp64 on the host. That also compiles the kernel before it is needed.
"""

import threading
from typing import NamedTuple

import torch

from rope_patch import report
from rope_patch.kernels import reference
from rope_patch.kernels.launch import Call, Heads, device_facts, launch
from rope_patch.kernels.plan import Plan, make_plan, token_blocks

SCRATCH_BYTES = 2**20  # at most: vLLM's memory profiling must count what it counted without us

_lock = threading.RLock()
_faults: dict[tuple[object, ...], str | None] = {}


def fault(call: Call, query_in_place: bool, key_in_place: bool) -> str | None:
    """Why the kernel must not serve calls like this one; None if it may. Checks at first sight, then remembers."""
    query, key = call.query, call.key
    signature = (
        query.tensor.device,
        query.tensor.dtype,
        call.cos_sin_cache.dtype,
        call.positions.dtype,
        query.num_heads,
        query_in_place,
        query.head_stride,
        key and (key.num_heads, key_in_place, key.head_stride),
        call.head_size,
        call.rotary_dim,
        call.is_neox_style,
    )
    try:
        return _faults[signature]
    except KeyError:
        pass
    if call.positions.numel() == 0:
        return None  # nothing to rotate, nothing to judge
    if _capturing(query.tensor.device):
        return "first seen during graph capture"
    with _lock:
        if signature not in _faults:
            found = _examine(call, query_in_place, key_in_place)
            _faults[signature] = found
            report.signatures[_words(call, query_in_place)] = found
            if found:
                report.warn_once(f"rope_patch: native rotary embedding for {_words(call, query_in_place)}: {found}")
    return _faults[signature]


def forget() -> None:
    """Check every signature anew, for tests and after a kernel cache was cleared."""
    _faults.clear()
    report.signatures.clear()


def _words(call: Call, in_place: bool) -> str:
    key_heads = call.key.num_heads if call.key else 0
    style = "neox" if call.is_neox_style else "gpt-j"
    dtype = str(call.query.tensor.dtype).removeprefix("torch.")
    return (
        f"{style} {dtype} heads {call.query.num_heads}/{key_heads} head_size {call.head_size} "
        f"rotary_dim {call.rotary_dim} {'in place' if in_place else 'fresh'} on {call.query.tensor.device}"
    )


def _capturing(device: torch.device) -> bool:
    module = getattr(torch, device.type, None)
    capturing = getattr(module, "is_current_stream_capturing", None)
    return bool(capturing and capturing())


def _examine(call: Call, query_in_place: bool, key_in_place: bool) -> str | None:
    try:
        device = device_facts(call.query.tensor.device)
        for block in token_blocks(call.shape, device):
            plan = make_plan(call.shape, block * device.max_programs, device)
            found = _try(call, plan, query_in_place, key_in_place)
            if found:
                return found
    except Exception as error:  # a compile failure, an overflowing unified buffer, an internal that moved
        return f"{type(error).__name__}: {str(error).strip()[-300:]}"
    return None


class _Trial(NamedTuple):
    """Synthetic q or k, what it was before, and where its rotation goes (None: in place)."""

    name: str
    heads: Heads
    before: torch.Tensor
    out: torch.Tensor | None


def _try(call: Call, plan: Plan, query_in_place: bool, key_in_place: bool) -> str | None:
    """Run ``plan`` on synthetic tensors: two full tiles and a tail, bounded by rounding."""
    generator = torch.Generator("cpu").manual_seed(0)  # not the global one: the model's draws stay what they were
    widest = max(heads.token_stride for heads in (call.query, call.key) if heads)
    affordable = SCRATCH_BYTES // (4 * widest * call.query.tensor.element_size())
    num_tokens = max(2, min(2 * plan.block_tokens + 1, affordable))
    rows = torch.linspace(call.cos_sin_cache.shape[0] - 1, 0, num_tokens, dtype=torch.float64, device="cpu").long()
    positions = rows.to(call.positions.device, call.positions.dtype)
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


def _trial(
    name: str, heads: Heads, num_tokens: int, head_size: int, in_place: bool, generator: torch.Generator
) -> _Trial:
    shape = (num_tokens, heads.num_heads, head_size)
    width = heads.num_heads * head_size
    strides = (width, head_size, 1) if in_place else (heads.token_stride, heads.head_stride, 1)
    values = torch.randn(shape, generator=generator, device="cpu").to(heads.tensor.dtype)
    tensor = torch.empty_strided(shape, strides, dtype=values.dtype, device=heads.tensor.device)
    tensor.copy_(values)
    out = None if in_place else torch.full(shape, float("nan"), dtype=values.dtype, device=tensor.device)
    return _Trial(name, Heads(tensor, heads.num_heads, strides[0], strides[1]), values, out)
