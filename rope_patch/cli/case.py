"""One call that ``bench`` measures: who serves it under the setting, and whether native and the kernel are right."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

import rope_patch
from rope_patch.cli import layout, timing
from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.definition import Definition
from rope_patch.cli.judging import judged
from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.sides import not_replaced, said
from rope_patch.cli.worker import Embedding, Worker
from rope_patch.operators import contract
from rope_patch.operators.rotation import Rotation
from rope_patch.reporting import ledger

COMPARED = 64  # the most tokens of a call that are compared, since the comparison runs on the host


@dataclass
class Case:
    """The call's tensors, and what is found out. The last four fields have the keys "native" and "patched"."""

    positions: torch.Tensor  # [num_tokens], or [3, num_tokens] with sections
    query: torch.Tensor
    key: torch.Tensor
    serves: str = "native"
    natively: str = ""  # what serves natively
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


def examine(case: Case, rope: RopeConfig, embedding: Embedding, definition: Definition, worker: Worker) -> None:
    """Run both once, compare them with float64, and note who serves under the setting. Leaves rope_patch enabled.

    Raises:
        CannotAnswer: the patch cannot be undone.
    """
    module = embedding.module
    case.remarks += [embedding.remark] if embedding.remark else []

    def through_module() -> Any:
        return module(case.positions, *layout.given(module, case.query, case.key))

    def directly() -> Any:
        rotation = Rotation(module.head_size, module.rotary_dim, module.is_neox_style, definition.axes)
        assert definition.table is not None
        return contract.serve(case.positions, case.query, case.key, definition.table, rotation)

    rope_patch.disable()
    before = ledger.calls()
    try:
        wrong, lanes = _wrong(case, rope, definition, lambda: layout.taken(module, through_module()), exactly=False)
        case.remarks += [f"native differs in {wrong} of {lanes} lanes"] if wrong else []
        case.functions["native"] = through_module
    except Exception as error:
        case.remarks.append(f"native cannot be run: {said(error)}")
    if ledger.calls() != before:
        raise CannotAnswer("the patch cannot be undone here, so native cannot be measured; see rope-patch status")

    rope_patch.enable()
    if embedding.covered:
        _who_serves(case, through_module)
    else:
        case.reason = embedding.remark
    if case.serves == "native" and definition.table is None:
        case.reason = "; ".join(filter(None, (case.reason, "the kernel does not know this class")))
        return
    served = case.serves == "kernel"
    function = through_module if served else directly
    handed_back = ledger.fallbacks()
    try:
        checked = (lambda: layout.taken(module, function())) if served else function
        wrong, lanes = _wrong(case, rope, definition, checked, exactly=True)
        case.fault = f"WRONG: {wrong} of {lanes} lanes" if wrong else None
        case.functions["patched"] = function
    except Exception as error:
        case.fault = "; ".join(ledger.fallbacks() - handed_back) or said(error)
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
            case.reason = said(error)
            return
    case.serves = "kernel" if ledger.calls() != calls else "native"
    if case.serves == "native":
        case.reason = "; ".join(ledger.fallbacks() - handed_back) or not_replaced()


def _wrong(
    case: Case, rope: RopeConfig, definition: Definition, function: timing.Function, exactly: bool
) -> tuple[int, int]:
    """(number of wrong lanes, number of lanes compared), for the first, the last, and some tokens in between."""
    some = torch.linspace(0, case.num_tokens - 1, min(case.num_tokens, COMPARED)).long().to(case.query.device)
    before = case.query[some].clone(), case.key[some].clone()
    rotated: Any = function()
    after = [now.reshape(case.num_tokens, -1)[some] for now in rotated]
    found = judged(before, after, definition.of(case.positions[..., some], before), rope.head_size, exactly)
    return found.wrong, found.lanes
