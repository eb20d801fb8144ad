"""Norm and rotation in one launch, modelled: beside vllm-ascend's kernels of the same operators, and beside what eager
mode runs without them.

    .venvs/ascend/bin/python -m tests.host_cann.run python -m scripts.model_ascend.normed --json FILE

Upstream's are those of 0.23.0 (their text is the same in 0.30.0rc2), as their operators start them. Eager mode norms q
and k, each by an operator of the vendor's, which is counted as a copy at HBM's peak, and rotates by our kernel; v stays
where it is.
"""

import argparse
import contextlib
import datetime
import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.orders import lanes, order_of
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import make_plan
from rope_patch.operators.norm_rotation import KERNELS as NORMED
from scripts.model_ascend import cases, kernels, launch, programs
from scripts.model_ascend.cases import ITEM, Case
from scripts.model_ascend.costs import CHIPS
from tests.ascend_kernels import others
from tests.host_cann import chips, front_end, trace

RELEASE, FOLDER = "0.23.0", "vllm_ascend/ops/triton/linearnorm"
EPS = 1e-6
INTERLEAVED = {128: lanes("interleaved", 64, 20, 20), 64: lanes("interleaved", 32, 11, 10)}
# With axes, cosines and sines of three positions were gathered by the caller; the last has a gate.
MODELS = (
    Case("Qwen3-8B 32/8, 128, 128", 32, 8, 128, 128, True),
    Case("Qwen3-32B 64/8, 128, 128", 64, 8, 128, 128, True),
    Case("Qwen3-8B tp4 8/2, 128, 128", 8, 2, 128, 128, True),
    Case("GLM-4.5 tp8 12/1, 128, 64", 12, 1, 128, 64, True),
    Case("Qwen3-VL-8B 32/8, 128, 128", 32, 8, 128, 128, True, axes=INTERLEAVED[128]),
    Case("Qwen3.5 16/2, 256, 64", 16, 2, 256, 64, True, axes=INTERLEAVED[64]),
)
GATED = MODELS[-1]
TOKENS = (1, 64, 512, 2048, 8192)
Row = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """Random numbers for some tokens; the others are never touched."""

    case: Case
    tokens: Sequence[int]
    qkv: np.ndarray
    outputs: tuple[np.ndarray, ...]  # q, k, v and the gate
    weights: tuple[np.ndarray, np.ndarray]
    positions: np.ndarray
    rows: np.ndarray  # cosines and sines: the cache, or gathered

    def error(self) -> float:
        """The largest error of q and k, in halves of a unit of bf16's rounding; infinite if v or the gate changed."""
        case, size = self.case, self.case.head_size
        q_width, k_width = case.num_heads * size * gates(case), case.num_kv_heads * size
        q, k, v = np.split(self.qkv[self.tokens], [q_width, q_width + k_width], -1)
        q, k = (x.reshape(len(self.tokens), -1, size) for x in (q, k))
        q, gate = q[:, :: gates(case)], q[:, 1 :: gates(case)]
        moved = zip((v, gate), self.outputs[2:], strict=True)
        if any((x.reshape(len(self.tokens), -1) != y[self.tokens]).any() for x, y in moved if y.size):
            return float("inf")
        worst = 0.0
        for x, weight, output in zip((q, k), self.weights, self.outputs, strict=False):
            x = cases.wide(x)
            x = x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * cases.wide(weight)
            exact = cases.rotated(case, x, self.positions[..., self.tokens])
            got = cases.wide(output[self.tokens]).reshape(exact.shape)
            worst = max(worst, float((np.abs(got - exact) / (np.abs(exact) * 2.0**-9 + 2e-5)).max()))
        return worst


def gates(case: Case) -> int:
    """What a head of q takes in a row, in heads."""
    return 2 if case == GATED else 1


def data_of(case: Case, number: int, tokens: Sequence[int]) -> Data:
    random = np.random.default_rng(0)
    heads = (case.num_heads, case.num_kv_heads, case.num_kv_heads, case.num_heads * (gates(case) - 1))
    qkv = cases.zeros(number, sum(heads) * case.head_size)
    qkv[tokens] = cases.narrow(random.standard_normal((len(tokens), qkv.shape[1]), np.float32))
    weights = tuple(cases.zeros(case.head_size) for _ in range(2))
    for weight in weights:
        weight[:] = cases.narrow(1 + 0.1 * random.standard_normal(case.head_size).astype(np.float32))
    positions, rows = cases.positions(case, number), cases.cache(case.rotary_dim)
    if case.axes:
        gathered = cases.zeros(3, number, case.rotary_dim)
        gathered[:, tokens] = rows[positions[:, tokens]]
        rows = gathered
    outputs = tuple(cases.zeros(number, count * case.head_size) for count in heads)
    return Data(case, tokens, qkv, outputs, (weights[0], weights[1]), positions, rows)


def ours(case: Case, number: int, chip: chips.Chip) -> tuple[programs.Executed, float]:
    device = Device(chip.vector_cores, chip.ub_bytes, powers_of_two=False)
    row = (case.num_heads * gates(case) + 2 * case.num_kv_heads) * case.head_size
    shape = NormedShape(
        case.head_size, case.rotary_dim, case.num_heads, case.num_kv_heads, EPS, row, ITEM, ITEM,
        by_position=not case.axes, axes=case.axes, has_gate=case == GATED,
    )  # fmt: skip
    plan = make_plan(NORMED, shape, number, device)
    absent = ["q_bias_ptr", "k_bias_ptr", "sin_ptr"]
    absent += ["positions_ptr"] * bool(case.axes) + ["gate_out_ptr"] * (case != GATED)
    values: Row = plan.constants(shape) | dict.fromkeys(absent)
    types = {name: kernels.kind(name) for name in front_end.arguments(plan.function, values)}
    count, each = plan.grid(number, device)
    if plan.splits_tokens or plan.units > 1:  # all programs, so that whole tokens can be compared
        alike, tokens = dict.fromkeys(range(count), 1), list(range(number))
    else:
        alike = {0: count - 1, count - 1: 1} if count > 1 else {0: 1}
        runs = {token for p in alike for token in range(p * each, min((p + 1) * each, number))}
        tokens = sorted(runs | set(range(number - plan.block_tokens, number)))
    data = data_of(case, number, tokens)
    outputs = data.outputs if case == GATED else data.outputs[:3]
    places = [] if case.axes else [data.positions]
    numbers = [number, each, data.rows.shape[-2], case.rotary_dim, row]
    numbers += [number * case.rotary_dim] if case.axes else []
    kernel = programs.compiled(plan.function, types, values, chip)
    executed = programs.execute(kernel, [data.qkv, *outputs, *data.weights, data.rows, *places, *numbers], alike)
    return executed, data.error()


@functools.cache
def _upstream(name: str) -> Any:
    module = others.module_of(RELEASE, Path(tempfile.mkdtemp()), f"{FOLDER}/{name}.py")
    return getattr(module, f"{name}_kernel")


def theirs(case: Case, number: int, chip: chips.Chip) -> tuple[programs.Executed, float]:
    """As ``split_qkv_rmsnorm_rope_impl`` and ``triton_split_qkv_rmsnorm_mrope`` start them. They are known to race; the
    programs are executed in their own order."""
    start = _with_axes if case.axes else _one_position
    kernel, values, alike, tokens, arguments = start(case, number, chip.vector_cores)
    types = {name: kernels.kind(name) for name in kernel.arg_names if name not in values} | {
        name: "*i64" for name in ("positions_gm_ptr",) if name in kernel.arg_names
    }
    data = data_of(case, number, tokens)
    compiled = programs.compiled(kernel, types, values, chip)
    with mock.patch.object(trace, "every_race", contextlib.nullcontext):
        executed = programs.execute(compiled, arguments(data), alike)
    return executed, data.error()


Start = tuple[Any, Row, dict[int, int], list[int], Callable[[Data], list[Any]]]


def _one_position(case: Case, number: int, cores: int) -> Start:
    heads, kv_heads, size, rotary_dim = case.num_heads, case.num_kv_heads, case.head_size, case.rotary_dim
    q, kv, buffer, partial = heads * size, kv_heads * size, 87040, rotary_dim != size
    lanes_of_one = 4 * rotary_dim + heads * rotary_dim if partial else 2 * rotary_dim + heads * rotary_dim // 2
    tile = max(1, buffer // ITEM // (5 * q + 3 * kv + lanes_of_one))
    values: Row = {"q_bias_ptr": None, "k_bias_ptr": None, "q_hidden_size": q, "kv_hidden_size": kv, "eps": EPS}
    values |= {"total_hidden_size": q + 2 * kv, "BIAS": False, "HEAD_DIM": size, "ROPE_DIM": rotary_dim}
    values |= {"HALF_ROPE_DIM": rotary_dim // 2, "IS_PARTIAL_ROPE": partial, "num_vectorcore": cores}
    values |= {"batch_size_per_iter_per_vec": tile, "qk_head_nums_per_iter_per_vec": tile * (heads + kv_heads)}
    values |= {"q_head_num": heads, "kv_head_num": kv_heads, "qk_head_num_sum": heads + kv_heads}
    values |= {"v_batch_size_per_iter_per_vec": buffer // ITEM // (kv + 1)}
    each = -(-number // cores)
    full, rest = divmod(number, each)
    idle = cores - full - bool(rest)
    alike = {program: count for program, count in ((0, full), (full, bool(rest)), (cores - 1, idle)) if count}
    tokens = sorted({t for p in alike for t in range(min(number, p * each), min(number, (p + 1) * each))})

    def arguments(data: Data) -> list[Any]:
        return [data.qkv, *data.outputs[:3], *data.weights, number, data.positions, data.rows]

    return _upstream("split_qkv_rmsnorm_rope"), values, alike, tokens, arguments


def _with_axes(case: Case, number: int, cores: int) -> Start:
    heads, kv_heads, size, rotary_dim = case.num_heads, case.num_kv_heads, case.head_size, case.rotary_dim
    q, gate = heads * size, heads * size * (gates(case) - 1)
    values: Row = {"q_bias_ptr": None, "k_bias_ptr": None, "num_q_heads": heads, "num_kv_heads": kv_heads}
    values |= {"head_size": size, "q_size": q, "kv_size": kv_heads * size, "eps": EPS, "has_bias": False}
    values |= {"is_interleaved": True, "rope_dim": rotary_dim, "half_rope_dim": rotary_dim // 2}
    values |= {"IS_PARTIAL_ROPE": rotary_dim != size, "gate_size": gate}
    front = number % cores or min(number, cores)
    count, most, least = min(number, cores), -(-number // cores), number // cores
    alike = {program: times for program, times in ((0, front), (count - 1, count - front)) if times}
    begins = {program: most * min(program, front) + least * max(0, program - front) for program in alike}
    tokens = sorted({t for p, begin in begins.items() for t in range(begin, begin + (most if p < front else least))})
    _, h, w = order_of(case.axes) or ("", 0, 0)

    def arguments(data: Data) -> list[Any]:
        sections = [rotary_dim // 2 - h - w, h, w]
        outputs = [*data.outputs[:3], data.outputs[3] if gate else data.outputs[0]]
        return [data.qkv, *data.weights, data.rows, *outputs, number, front, most, least, *sections]

    return _upstream("split_qkv_rmsnorm_mrope"), values, alike, tokens, arguments


def eager_us(case: Case, number: int, chip: chips.Chip) -> float:
    """Two norms, and the gate made contiguous, each a copy at HBM's peak; our rotation of contiguous q and k. v stays
    where it is."""
    costs = CHIPS[chip.name]
    copied = (case.num_heads, case.num_kv_heads, *[case.num_heads] * (gates(case) - 1))
    norms = (number * heads * case.head_size * ITEM for heads in copied)
    executed, _ = kernels.execute(kernels.ours(case._replace(strided=False), number, chip))
    return sum(launch.copy_us(size, costs) for size in norms) + executed.time(costs).us


def row(case: Case, number: int, chip: chips.Chip) -> Row:
    """Modelled: microseconds, and the largest error in halves of a unit of bf16."""
    found: Row = {"tokens": number}
    for name, start in (("ours", ours), ("upstream", theirs)):
        try:
            executed, error = start(case, number, chip)
        except (programs.DoesNotCompile, programs.Failed) as reason:
            found[name] = {"none": str(reason)}
        except OSError as reason:  # the program calls what the compiler's library lacks
            found[name] = {"none": str(reason).rpartition(": ")[2]}
        else:
            found[name] = {"us": round(executed.time(CHIPS[chip.name]).us, 2), "error": round(error, 1)}
            found[name] |= {"notes": list(executed.notes)} if executed.notes else {}
    return found | {"eager_us": round(eager_us(case, number, chip), 2)}


def table(results: Row) -> list[str]:
    """Lines for the README."""
    lines = [
        "| heads of q/k, head size, rotary dim | tokens | ours | vllm-ascend 0.23.0 | times as fast | eager "
        "| error, theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in results["cases"].items():
        for found in rows:
            mine, other = found["ours"], found["upstream"]
            times = f"{other['us'] / mine['us']:.2f}" if "us" in other and "us" in mine else "–"  # noqa: RUF001
            cells = [name, f"{found['tokens']:,}", mine.get("us", "–"), other.get("us", "does not run"), times]  # noqa: RUF001
            cells += [found["eager_us"], f"{mine.get('error', '–')}, {other.get('error', '–')}"]  # noqa: RUF001
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.model_ascend.normed", description="Modelled times.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    parser.add_argument("--show", type=Path, metavar="FILE", help="model nothing, show these figures")
    chosen = parser.parse_args()
    if chosen.show:
        print("\n".join(table(json.loads(chosen.show.read_text()))))
        return
    chip = chips.CHIPS["910B3"]
    results: Row = {
        "what": "modelled times of scripts/model_ascend/normed.py; nothing was measured",
        "date": datetime.date.today().isoformat(),
        "chip": chip.name,
        "cases": {case.name: [row(case, tokens, chip) for tokens in TOKENS] for case in MODELS},
    }
    print("\n".join(table(results)))
    reasons = {
        one["none"]
        for rows in results["cases"].values()
        for each in rows
        for one in each.values()
        if "none" in str(one)
    }
    print("\n".join(f"? {reason}" for reason in reasons))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
