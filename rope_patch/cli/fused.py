"""vllm-ascend's operators that split, norm and rotate at once, where a model would meet them: both sides, judged.

In graphs a pass of vllm-ascend's compiler puts the first operator into bf16 models that norm q and k in heads of 128;
the attention of Qwen3-VL and Qwen3.5 calls the second itself. Such a model's rotary embedding is not called there.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

import rope_patch
from rope_patch.cli import judging, synthetic
from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.sides import (
    NOT_KNOWN,
    NOT_TRIED,
    RIGHT,
    RUNS,
    UNSTEADY,
    WRONG,
    Both,
    NotServed,
    Side,
    not_replaced,
    said,
    sizes,
)
from rope_patch.cli.worker import Worker
from rope_patch.operators import norm_contract, norm_inputs
from rope_patch.operators.norm_inputs import Angles, NormRotation, Tensors
from rope_patch.reporting import ledger
from rope_patch.serving.sample import Sample

IN_GRAPHS, BY_ATTENTION = "qkv_rmsnorm_rope", "triton_split_qkv_rmsnorm_mrope"
MODULES = "vllm_ascend.ops.triton.linearnorm."  # importing them registers the operators
MODULE_OF = {IN_GRAPHS: f"{MODULES}split_qkv_rmsnorm_rope", BY_ATTENTION: f"{MODULES}split_qkv_rmsnorm_mrope"}
PATCHED = ("Qwen3Attention", "Qwen3MoeAttention", "Qwen3NextAttention")
Call = tuple[Tensors, Angles]


class Fused(NamedTuple):
    """What the model would meet."""

    operator: str
    function: Any
    asked: NormRotation
    gate: bool


def met(rope: RopeConfig, dtype: str) -> Fused | None:
    """What this rotary embedding's model would meet in this dtype on the installed vllm-ascend, if anything."""
    norms = rope.norms
    if norms is None or dtype == "float32":
        return None
    asked = NormRotation(rope.head_size, rope.rotary_dim, rope.num_heads, rope.num_kv_heads, norms.eps)
    if rope.embedding == "MRotaryEmbedding" and rope.sections and norms.attention in PATCHED:
        asked = asked._replace(axes=synthetic.axes_of(rope))
        return _found(BY_ATTENTION, asked, norms.gate)
    matched = norms.kind == "RMSNorm" and norms.eps in (1e-6, 1e-5) and not norms.gate and rope.head_size == 128
    if matched and rope.is_neox_style and dtype == "bfloat16" and rope.embedding == "RotaryEmbedding":
        return _found(IN_GRAPHS, asked, False)
    return None


def _found(operator: str, asked: NormRotation, gate: bool) -> Fused | None:
    try:
        importlib.import_module(MODULE_OF[operator])
        function = getattr(torch.ops.vllm, operator)
    except (ImportError, AttributeError):  # another release, or no Triton
        return None
    names = [argument.name for argument in function.default._schema.arguments]
    takes_cache = {"cos_sin_cache", "positions"} <= {*names} or "cos_sin" in names  # 0.13's takes gathered cosines
    return Fused(operator, function, asked, gate) if takes_cache else None


def of(fused: Fused, rope: RopeConfig, dtype: str, worker: Worker) -> Both:
    """Both sides of the operator. Leaves rope_patch enabled."""
    rope = rope._replace(name=f"{rope.name}, with its norms")
    where = "in graphs" if fused.operator == IN_GRAPHS else "called by its attention"
    name = f"vllm.{fused.operator} ({where})"
    with torch.inference_mode():
        try:
            table = worker.build(rope, getattr(torch, dtype)).module.cos_sin_cache
            calls = Calls(fused, table)
            rope_patch.disable()
            without = calls.judge(name, calls.through_operator)
        except Exception as error:
            why = Side(name, NOT_KNOWN, said=said(error))
            return Both(rope, dtype, why, why, why, why)
        finally:
            rope_patch.enable()
        before, handed_back = ledger.calls(), ledger.fallbacks()
        through = calls.judge(name, calls.through_operator)
        if ledger.calls() != before and through.said is None:
            through = through._replace(serves="kernel")
            return Both(rope, dtype, through, without, through, through)
        kernel = calls.judge("kernel, called directly", calls.directly)
        if ledger.fallbacks() - handed_back and through.said:
            return Both(rope, dtype, through, without, kernel, through)
        return Both(rope, dtype, kernel._replace(said=kernel.said or not_replaced()), without, kernel, without)


class Calls:
    """The calls of one operator, on random qkv and a model's table."""

    def __init__(self, fused: Fused, table: torch.Tensor) -> None:
        self.fused, self.table = fused, table

    def _each(self) -> Iterator[tuple[Tensors, Angles, list[Sample]]]:
        asked, table = self.fused.asked, self.table
        widths = [number * asked.head_size for number in (asked.num_heads, asked.num_kv_heads)]
        gates = widths[:1] if self.fused.gate else []
        for num_tokens in sizes(table.device):

            def empty(lanes: int, rows: int = num_tokens) -> torch.Tensor:
                return table.new_empty(rows, lanes)

            q, kv = widths
            weight = table.new_empty(asked.head_size)
            results = empty(q), empty(kv), empty(kv), empty(q) if gates else None
            like = Tensors(empty(q + 2 * kv + sum(gates)), *results, weight, weight, None, None)
            if asked.axes:
                angles = Angles(table.new_empty(3, num_tokens, asked.rotary_dim), None, None)
            else:
                positions = torch.zeros(num_tokens, dtype=torch.int64, device=table.device)
                angles = Angles(table, None, positions)
            yield norm_inputs.synthetic(num_tokens, like, angles, asked)

    def through_operator(self, tensors: Tensors, angles: Angles) -> Any:
        """As the graph or the attention calls it."""
        asked = self.fused.asked
        given = {"q_weight": tensors.q_weight, "k_weight": tensors.k_weight, "eps": asked.eps}
        if self.fused.operator == BY_ATTENTION:
            given |= {"qkv": tensors.qkv, "cos_sin": angles.cos, "num_q_heads": asked.num_heads}
            given |= {"num_kv_heads": asked.num_kv_heads, "head_size": asked.head_size, "rope_dim": asked.rotary_dim}
            interleaved = "thw" in asked.axes
            given |= {"mrope_section": [asked.axes.count(axis) for axis in "thw"], "is_interleaved": interleaved}
            given |= {"has_gate": True} if self.fused.gate else {}
        else:
            given |= {"input": tensors.qkv, "cos_sin_cache": angles.cos, "positions": angles.positions}
            given |= {"q_hidden_size": asked.num_heads * asked.head_size, "head_dim": asked.head_size}
            given |= {"kv_hidden_size": asked.num_kv_heads * asked.head_size}
        return self.fused.function(**given)

    def directly(self, tensors: Tensors, angles: Angles) -> Any:
        before = ledger.fallbacks()
        if not norm_contract.serve(tensors, angles, self.fused.asked):
            raise NotServed("; ".join(ledger.fallbacks() - before))
        return [tensor.clone() for tensor in tensors[1:5] if tensor is not None]

    def judge(self, serves: str, function: Callable[[Tensors, Angles], Any]) -> Side:
        """Run it three times for each number of tokens. What the kernel served is judged exactly."""
        total, steady = judging.NOTHING, True
        before = ledger.fallbacks()
        try:
            for tensors, angles, samples in self._each():
                calls = ledger.calls()
                results = [[one.cpu() for one in function(tensors, angles)] for _ in range(RUNS)]
                total = total.and_(self._found(results[0], samples, ledger.calls() != calls))
                bits = [[one.contiguous().view(torch.uint8) for one in result] for result in results]
                steady &= all(torch.equal(*pair) for again in bits[1:] for pair in zip(bits[0], again, strict=False))
        except NotServed as why:
            tried = not any(reason in str(why) for reason in NOT_TRIED)
            return Side(serves, WRONG if tried else NOT_KNOWN, total, str(why))
        except Exception as error:
            return Side(serves, NOT_KNOWN, total, said(error))
        reasons = "; ".join(ledger.fallbacks() - before) or None
        return Side(serves, WRONG if total.wrong else RIGHT if steady else UNSTEADY, total, reasons)

    def _found(self, results: list[torch.Tensor], samples: list[Sample], exactly: bool) -> judging.Found:
        total, asked = judging.NOTHING, self.fused.asked
        for now, sample in zip(results, samples, strict=False):  # without gates the operator gives an empty tensor
            heads = len(now), -1, asked.head_size
            exact, bound = sample.exact.reshape(heads), sample.bound.reshape(heads)
            ulps = judging.ulp(exact, asked.rotary_dim, True, torch.finfo(now.dtype))
            moved = sample.name in ("value", "gate")  # and not computed
            allowed = bound if exactly or moved else judging.NATIVE_ULP * ulps
            total = total.and_(judging.found_in((now.reshape(heads).double() - exact).abs(), allowed, ulps))
        return total
