"""Both sides of a rotary embedding on this device: what serves with rope_patch, and what serves without it.

Each rotates the same random q and k, from one token to some thousands, three times, and is judged against fp64 from the
module's own table.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

import rope_patch
from rope_patch.cli import judging, layout, native, synthetic, tables
from rope_patch.cli.definition import Definition
from rope_patch.cli.judging import Found
from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.worker import Worker
from rope_patch.operators import contract
from rope_patch.operators.rotation import Rotation
from rope_patch.reporting import ledger
from rope_patch.serving.first_use import NOT_POSSIBLE

# One token, since only a slice of qkv of one token is contiguous; a few; and ragged numbers of some hundreds and some
# thousands, as in prefills. Under an interpreter those would take minutes.
TOKENS, TOKENS_INTERPRETED = (1, 7, 331, 2311), (1, 2, 19)
MANY = 1024  # tokens, from which on only views of qkv are tried
RUNS = 3
MOST_ROWS = 65_536  # of a table that is made here, where there is no vLLM

RIGHT, WRONG, UNSTEADY, NOT_KNOWN, NOT_HERE = "right", "WRONG", "DIFFERS FROM RUN TO RUN", "not possible", "not here"

DIRECTLY = "kernel, called directly"
# In the reasons of calls that were handed back, where that is no verdict on the kernel: there was no memory, say.
NOT_TRIED = (NOT_POSSIBLE, "could not be started", "arguments of another kind")


class NotServed(Exception):
    """The kernel does not serve the call; the message says why."""


class Side(NamedTuple):
    """One side in one dtype, over all numbers of tokens and layouts."""

    serves: str  # who: "kernel", or vLLM's class and the operators that it calls
    outcome: str  # one of the five above
    found: Found = judging.NOTHING
    said: str | None = None  # why the kernel does not serve, or what was not possible

    @property
    def is_bad(self) -> bool:
        return self.outcome in (WRONG, UNSTEADY)

    def as_data(self) -> dict[str, Any]:
        return {"serves": self.serves, "outcome": self.outcome, **self.found._asdict(), "said": self.said}


class Both(NamedTuple):
    """What was found of one shape in one dtype."""

    rope: RopeConfig
    dtype: str
    with_it: Side
    without: Side
    kernel: Side  # the kernel where it does not serve, called directly; else as ``with_it``
    now: Side  # the one that serves under this process's setting
    table: tables.Judged = tables.NOT_JUDGED  # the module's, against its definition


class Calls:
    """The calls of one shape in one dtype, from a definition of what is right."""

    def __init__(self, rope: RopeConfig, dtype: str, device: torch.device, definition: Definition) -> None:
        self.rope, self.name, self.dtype = rope, dtype, getattr(torch, dtype)
        self.device, self.definition = device, definition

    def _each(self) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
        """Positions, and q and k, for each number of tokens and layout."""
        generator = torch.Generator("cpu").manual_seed(0)
        for num_tokens in sizes(self.device):
            positions = synthetic.positions_of(self.rope, num_tokens, self.definition.rows, generator)
            for strided in (True, False) if num_tokens < MANY else (True,):
                tensors = synthetic.inputs(self.rope, num_tokens, strided, generator, self.dtype, self.device)
                yield positions.to(self.device), tensors

    def judge(self, serves: str, function: Any, step: Any) -> Side:
        """Run ``function`` three times for each call, within ``step(positions)``. What the kernel served is judged
        exactly."""
        total, steady = judging.NOTHING, True
        before = ledger.fallbacks()
        try:
            for positions, tensors in self._each():
                calls = ledger.calls()
                with step(positions):
                    results = [function(positions, *synthetic.copied(tensors)) for _ in range(RUNS)]
                exact = self.definition.of(positions, tensors)
                exactly = ledger.calls() != calls
                total = total.and_(judging.judged(tensors, results[0], exact, self.rope.head_size, exactly))
                steady &= all(_same(results[0], again) for again in results[1:])
        except NotServed as why:
            tried = not any(reason in str(why) for reason in NOT_TRIED)
            return Side(serves, WRONG if tried else NOT_KNOWN, total, str(why))
        except Exception as error:
            return Side(serves, NOT_KNOWN, total, said(error))
        reasons = "; ".join(ledger.fallbacks() - before) or None
        return Side(serves, WRONG if total.wrong else RIGHT if steady else UNSTEADY, total, reasons)

    def of_kernel(self) -> Side:
        """The kernel, called without vLLM's module around it."""
        rope, definition = self.rope, self.definition
        table = definition.table
        if table is None:
            return Side(DIRECTLY, NOT_HERE, said="the kernel does not know this class of rotary embedding")
        rotation = Rotation(rope.head_size, definition.rotary_dim, definition.is_neox_style, definition.axes)

        def kernel(positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> Any:
            before = ledger.fallbacks()
            rotated = contract.serve(positions, query, key, table, rotation)
            if rotated is None:
                raise NotServed("; ".join(ledger.fallbacks() - before))
            return rotated

        return self.judge(DIRECTLY, kernel, _no_step)


def sizes(device: torch.device) -> tuple[int, ...]:
    """The numbers of tokens of the calls."""
    return TOKENS_INTERPRETED if device.type == "cpu" else TOKENS


@contextlib.contextmanager
def _no_step(positions: torch.Tensor) -> Iterator[None]:
    yield


def _same(one: Any, other: Any) -> bool:
    """Bit by bit, on the host."""
    bits = [[tensor.cpu().contiguous().view(torch.uint8) for tensor in tensors] for tensors in (one, other)]
    return all(torch.equal(first, again) for first, again in zip(*bits, strict=True))


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()[-200:]}"


def without_vllm(rope: RopeConfig, dtype: str, device: torch.device, why: str) -> Both:
    """The kernel by itself, on a table of unscaled angles."""
    table = synthetic.unscaled_table(rope, min(rope.max_position, MOST_ROWS)).to(device, getattr(torch, dtype))
    numbers = rope.rotary_dim, rope.is_neox_style, synthetic.axes_of(rope)
    kernel = Calls(rope, dtype, device, Definition.of_table(table, *numbers)).of_kernel()
    return Both(rope, dtype, kernel, Side("vLLM", NOT_HERE, said=why), kernel, kernel)


def of_vllm(rope: RopeConfig, dtype: str, worker: Worker) -> Both:
    """Both sides of vLLM's own module, and its table. Leaves rope_patch enabled."""
    with torch.inference_mode():
        try:
            module = worker.build(rope, getattr(torch, dtype)).module
            definition = Definition.of_module(module, rope)
            table = tables.judged(rope, module)
        except Exception as error:
            why = Side("vLLM", NOT_KNOWN, said=f"vLLM's module could not be made: {said(error)}")
            return Both(rope, dtype, why, why, why, why)
        return _judged(module, Calls(rope, dtype, worker.device, definition), worker)._replace(table=table)


def _judged(module: Any, calls: Calls, worker: Worker) -> Both:
    of = calls.rope, calls.name

    def called(positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> Any:
        return layout.taken(module, module(positions, *layout.given(module, query, key)))

    try:
        rope_patch.disable()
        before = ledger.calls()
        without = calls.judge(native.named(module, worker), called, lambda positions: worker.step(module, positions))
        if ledger.calls() != before:
            without = Side(without.serves, NOT_KNOWN, said="the patch cannot be undone here; see rope-patch status")
    finally:
        rope_patch.enable()
    before, handed_back = ledger.calls(), ledger.fallbacks()
    through = calls.judge(without.serves, called, lambda positions: worker.step(module, positions))
    if ledger.calls() != before:
        if through.said is None:
            through = through._replace(serves="kernel")
            return Both(*of, through, without, through, through)
        through = through._replace(serves=f"kernel, and {without.serves}")
        return Both(*of, through, without, calls.of_kernel(), through)
    kernel = calls.of_kernel()
    if ledger.fallbacks() - handed_back and through.said:  # rope_patch was asked, and left it to native code
        return Both(*of, through, without, kernel, through)
    shown = kernel if kernel.outcome != NOT_HERE else through._replace(said=kernel.said)
    return Both(*of, shown._replace(said=shown.said or not_replaced()), without, kernel, without)


def not_replaced() -> str:
    """Why no call of a module came to rope_patch."""
    status = rope_patch.status()
    return "not a place that rope_patch replaces" if "applied" in status["targets"].values() else status["reason"]
