"""One call that ``bench`` measures: who serves it under the setting, and whether native and the kernel are right."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

import rope_patch
from rope_patch.cli import timing, verify
from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.worker import Embedding
from rope_patch.operators import contract, reference
from rope_patch.operators.reference import rows_of
from rope_patch.operators.rotation import Rotation
from rope_patch.reporting import ledger

COMPARED = 64  # the most tokens of a call that are compared, since the comparison runs on the host
NATIVE_ULP = 4  # the error that vLLM's own code may have, in units in the last place: it rounds each product too


@dataclass
class Case:
    """The call's tensors, and what is found out. The last four fields have the keys "native" and "patched"."""

    positions: torch.Tensor  # [num_tokens], or [3, num_tokens] with sections
    query: torch.Tensor
    key: torch.Tensor
    serves: str = "native"
    reason: str | None = None
    fault: str | None = None
    remarks: list[str] = field(default_factory=list)
    functions: dict[str, timing.Function] = field(default_factory=dict)
    repeated: dict[str, tuple[timing.Function, str]] = field(default_factory=dict)
    host: dict[str, list[float]] = field(default_factory=dict)  # microseconds a call, one number for each round
    device: dict[str, list[float]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return self.positions.shape[-1]


def examine(case: Case, rope: RopeConfig, embedding: Embedding) -> None:
    """Run both once, compare them with float64, and note who serves under the setting. Leaves rope_patch enabled.

    Raises:
        CannotAnswer: the patch cannot be undone.
    """
    module = embedding.module
    case.remarks += [embedding.remark] if embedding.remark else []

    def through_module() -> Any:
        return module(case.positions, case.query, case.key)

    def directly() -> Any:
        rotation = Rotation(module.head_size, module.rotary_dim, module.is_neox_style, verify.axes_of(rope))
        return contract.serve(case.positions, case.query, case.key, module.cos_sin_cache, rotation)

    rope_patch.disable()
    before = ledger.calls()
    try:
        wrong, lanes = _wrong(case, rope, module, through_module, exactly=False)
        case.remarks += [f"native differs in {wrong} of {lanes} lanes"] if wrong else []
        case.functions["native"] = through_module
    except Exception as error:
        case.remarks.append(f"native cannot be run: {_said(error)}")
    if ledger.calls() != before:
        raise CannotAnswer("the patch cannot be undone here, so native cannot be measured; see rope-patch status")

    rope_patch.enable()
    if embedding.covered:
        _who_serves(case, through_module)
    else:
        case.reason = embedding.remark
    function = through_module if case.serves == "kernel" else directly
    handed_back = ledger.fallbacks()
    try:
        wrong, lanes = _wrong(case, rope, module, function, exactly=True)
        case.fault = f"WRONG: {wrong} of {lanes} lanes" if wrong else None
        case.functions["patched"] = function
    except Exception as error:
        case.fault = "; ".join(ledger.fallbacks() - handed_back) or _said(error)
    if case.fault:
        case.functions.pop("patched", None)


def _who_serves(case: Case, through_module: timing.Function) -> None:
    """Note who serves a call under the setting. Calls twice: in the first call vLLM may convert the cache."""
    calls, handed_back = Counter[str](), Counter[str]()
    for _ in range(2):
        calls, handed_back = ledger.calls(), ledger.fallbacks()
        try:
            through_module()
        except Exception as error:
            case.reason = _said(error)
            return
    case.serves = "kernel" if ledger.calls() != calls else "native"
    if case.serves == "native":
        status = rope_patch.status()
        applied = "applied" in status["targets"].values()
        reasons = "; ".join(ledger.fallbacks() - handed_back)
        case.reason = reasons or ("not a place that rope_patch replaces" if applied else status["reason"])


def _wrong(case: Case, rope: RopeConfig, module: Any, function: timing.Function, exactly: bool) -> tuple[int, int]:
    """(number of wrong lanes, number of lanes compared), for the first, the last, and some tokens in between."""
    some = torch.linspace(0, case.num_tokens - 1, min(case.num_tokens, COMPARED)).long()
    tensors = case.query, case.key

    def heads(tensor: Any) -> Any:
        return tensor[some.to(tensor.device)].reshape(len(some), -1, rope.head_size).cpu()

    before = [heads(tensor) for tensor in tensors]
    rotated: Any = function()
    positions = case.positions[..., some.to(case.positions.device)]
    of_positions = torch.arange(positions.numel()).view(positions.shape)
    rows = rows_of(of_positions, module.cos_sin_cache[positions.flatten()].cpu(), verify.axes_of(rope))
    wrong = lanes = 0
    rotation = Rotation(rope.head_size, rope.rotary_dim, module.is_neox_style)
    for was, now in zip(before, rotated, strict=True):
        found = reference.compared(was, heads(now), rows, rotation)
        loose = None if exactly else NATIVE_ULP * verify.ulp(found.exact, rope, torch.finfo(was.dtype))
        wrong += found.wrong(loose)
        lanes += found.error.numel()
    return wrong, lanes


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-200:]}"
