"""One call while ``bench`` measures it: who serves it here, and whether native and the kernel are right about it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

import rope_patch
from rope_patch.cli import timing, verify
from rope_patch.cli.answer import Fault
from rope_patch.cli.shapes import Shape
from rope_patch.cli.worker import Embedding
from rope_patch.reporting import ledger
from rope_patch.rotation import rotary
from rope_patch.trust import reference

COMPARED = 64  # tokens of a call whose every lane is compared: exactly, and on the host
NATIVE_ULP = 4  # units in the last place: vLLM's own code rounds each product too


@dataclass
class Case:
    """Its tensors, and what is found out; the last four by "native" and "patched"."""

    positions: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    serves: str = "native"
    reason: str | None = None
    fault: str | None = None
    remarks: list[str] = field(default_factory=list)
    works: dict[str, timing.Work] = field(default_factory=dict)
    repeated: dict[str, tuple[timing.Work, str]] = field(default_factory=dict)
    host: dict[str, list[float]] = field(default_factory=dict)  # microseconds a call, of each round
    device: dict[str, list[float]] = field(default_factory=dict)


def examine(case: Case, shape: Shape, embedding: Embedding) -> None:
    """Run both once, compare them with float64, and note who serves under the setting; leaves rope_patch enabled.

    Raises:
        Fault: what is patched cannot be taken back.
    """
    module = embedding.module
    case.remarks += [embedding.remark] if embedding.remark else []

    def through_module() -> Any:
        return module(case.positions, case.query, case.key)

    def directly() -> Any:
        arguments = case.positions, case.query, case.key, module.cos_sin_cache
        return rotary.serve(*arguments, module.head_size, module.rotary_dim, module.is_neox_style)

    rope_patch.disable()
    before = ledger.calls()
    try:
        wrong, lanes = _wrong(case, shape, module, through_module, exactly=False)
        case.remarks += [f"native differs in {wrong} of {lanes} lanes"] if wrong else []
        case.works["native"] = through_module
    except Exception as error:
        case.remarks.append(f"native cannot be run: {_said(error)}")
    if ledger.calls() != before:
        raise Fault("rope_patch cannot be taken back here, so native cannot be measured; see rope-patch status")

    rope_patch.enable()
    if embedding.covered:
        _who_serves(case, through_module)
    else:
        case.reason = embedding.remark
    work = through_module if case.serves == "kernel" else directly
    handed_back = ledger.fallbacks()
    try:
        wrong, lanes = _wrong(case, shape, module, work, exactly=True)
        case.fault = f"WRONG: {wrong} of {lanes} lanes" if wrong else None
        case.works["patched"] = work
    except Exception as error:
        case.fault = "; ".join(ledger.fallbacks() - handed_back) or _said(error)
    if case.fault:
        case.works.pop("patched", None)


def _who_serves(case: Case, through_module: timing.Work) -> None:
    """What becomes of a call under the setting: of the second, since vLLM matches a cache's dtype in the first."""
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
        case.reason = reasons or ("not a place of rope_patch's" if applied else status["reason"])


def _wrong(case: Case, shape: Shape, module: Any, work: timing.Work, exactly: bool) -> tuple[int, int]:
    """(lanes that are not right, lanes compared), of a call's first, last, and tokens in between."""
    count = len(case.positions)
    some = torch.linspace(0, count - 1, min(count, COMPARED)).long()
    tensors = case.query, case.key

    def heads(tensor: Any) -> Any:
        return tensor[some.to(tensor.device)].reshape(len(some), -1, shape.head_size).cpu()

    before = [heads(tensor) for tensor in tensors]
    rotated: Any = work()
    rows = module.cos_sin_cache[case.positions[some.to(case.positions.device)]]
    wrong = lanes = 0
    for was, now in zip(before, rotated, strict=True):
        found = reference.compared(was, heads(now), rows, shape.rotary_dim, module.is_neox_style)
        loose = None if exactly else NATIVE_ULP * verify.ulp(found.exact, shape, torch.finfo(was.dtype))
        wrong += found.wrong(loose)
        lanes += found.error.numel()
    return wrong, lanes


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-200:]}"
