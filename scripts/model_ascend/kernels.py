"""The three kernels as they are launched: ours, the seed's and upstream's, those two from their wheels."""

import functools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from rope_patch.kernels.by_heads import ByHeads
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import make_plan
from rope_patch.kernels.shape import Rotation, Shape
from rope_patch.operators.rotation import KERNELS
from scripts.model_ascend import cases, programs
from scripts.model_ascend.cases import ITEM, Case
from tests.ascend_kernels import upstream
from tests.host_cann import chips, front_end


@dataclass(frozen=True)
class Launch:
    """Programs of a grid that do the same work are executed once; ``alike`` says how many each stands for."""

    case: Case
    num_tokens: int
    kernel: programs.Kernel
    alike: Mapping[int, int]
    tokens: Callable[[int], Sequence[int]]  # that a program rotates, at least a part of
    bound: float  # of the error beside rounding: what the kernel's own precision allows
    arguments: Callable[["Tensors"], list[np.ndarray | int]]
    fresh: bool


@dataclass(frozen=True)
class Tensors:
    q: np.ndarray
    k: np.ndarray
    q_out: np.ndarray
    k_out: np.ndarray
    positions: np.ndarray
    cache: np.ndarray
    before: tuple[np.ndarray, np.ndarray]


class Results(NamedTuple):
    wrong: int
    lanes: int  # that were compared: of the tokens of the programs that were executed


def execute(launch: Launch) -> tuple[programs.Executed, Results]:
    """Its programs' events, and what became of the lanes that they wrote."""
    tokens = sorted({token for program in launch.alike for token in launch.tokens(program)})
    data = _tensors(launch, tokens)
    executed = programs.execute(launch.kernel, launch.arguments(data), launch.alike)
    wrong = lanes = 0
    for before, after in zip(data.before, (data.q_out, data.k_out), strict=True):
        exact = cases.rotated(launch.case, cases.wide(before), data.positions[..., tokens])
        got = cases.wide(after[tokens]).reshape(exact.shape)
        wrong += int((~(np.abs(got - exact) <= np.abs(exact) * 2.0**-8 + launch.bound)).sum())
        lanes += exact.size
    return executed, Results(wrong, lanes)


def _tensors(launch: Launch, tokens: Sequence[int]) -> Tensors:
    """Random numbers for those tokens; the others are never touched."""
    case, number = launch.case, launch.num_tokens
    heads = case.num_heads, case.num_kv_heads
    if launch.fresh or case.strided:
        qkv = cases.zeros(number, case.row)
        ends = case.num_heads * case.head_size, (case.num_heads + case.num_kv_heads) * case.head_size
        q, k = qkv[:, : ends[0]], qkv[:, ends[0] : ends[1]]
    else:
        q, k = (cases.zeros(number, n * case.head_size) for n in heads)
    random = np.random.default_rng(0)
    for x in (q, k):
        x[tokens] = cases.narrow(random.standard_normal((len(tokens), x.shape[1]), np.float32))
    before = tuple(x[tokens].reshape(len(tokens), -1, case.head_size).copy() for x in (q, k))
    outputs = [cases.zeros(*x.shape) for x in (q, k)] if launch.fresh else [q, k]
    return Tensors(q, k, *outputs, cases.positions(case, number), cases.cache(case.rotary_dim), before)


def ours(case: Case, num_tokens: int, chip: chips.Chip) -> Launch:
    """As ``kernels/launch.py`` starts it."""
    fresh = case.strided and num_tokens > 1
    device = Device(chip.vector_cores, chip.ub_bytes, powers_of_two=False)
    rows, shape = _rows(case), shape_of(case, fresh)
    plan = make_plan(KERNELS, shape, num_tokens, device)
    values = plan.constants(shape) | ({} if fresh else {"q_out_ptr": None, "k_out_ptr": None})
    types = {name: kind(name) for name in front_end.arguments(plan.function, values)}
    if plan.in_words:
        types |= {name: "*i32" for name in types if name in ("q_ptr", "k_ptr", "q_out_ptr", "k_out_ptr")}
    words = 2 if plan.in_words else 1  # elements in what the kernel counts strides in
    strides = [stride // words for stride in (rows[0], case.head_size, rows[1], case.head_size)]
    count, each = plan.grid(num_tokens, device)
    numbers = (num_tokens, each, cases.CACHE_ROWS, case.rotary_dim, *strides, *([num_tokens] if case.axes else []))

    def tokens(program: int) -> Sequence[int]:
        begin, end = program * each, (program + 1) * each
        if isinstance(
            plan, ByHeads
        ):  # whole tokens, if all programs are executed; else their blocks of heads are not told apart
            begin, end = begin // plan.units, -(-end // plan.units)
        return range(begin, min(end, num_tokens))

    def arguments(data: Tensors) -> list[np.ndarray | int]:
        outputs = [data.q_out, data.k_out] if fresh else []
        return [data.q, data.k, *outputs, data.cache, data.positions, *numbers]

    alike = {0: count - 1, count - 1: 1} if count > 1 else {0: 1}
    if isinstance(plan, ByHeads):  # few tokens: all programs, so that whole tokens can be compared
        alike = dict.fromkeys(range(count), 1)
    kernel = programs.compiled(plan.function, types, values, chip)
    return Launch(case, num_tokens, kernel, alike, tokens, 1e-5, arguments, fresh)


def shape_of(case: Case, fresh: bool) -> Shape:
    """What of the case its plan follows from."""
    return Shape(
        Rotation(case.head_size, case.rotary_dim, case.is_neox_style, case.axes),
        *(case.num_heads, case.num_kv_heads),
        token_stride=max(_rows(case)),
        itemsize=ITEM,
        cache_itemsize=ITEM,
        fresh=fresh,
        words="" if case.is_neox_style else "bf16 words",
    )


def _rows(case: Case) -> tuple[int, int]:
    """Elements from one token of q, and of k, to the next."""
    return (
        (case.row, case.row) if case.strided else (case.num_heads * case.head_size, case.num_kv_heads * case.head_size)
    )


def theirs(case: Case, num_tokens: int, chip: chips.Chip, text: str) -> Launch:
    """vllm-ascend's ``_triton_rope`` as its ``rope_forward_triton`` starts it; q and k are contiguous by then.

    0.13.0 takes cos and sin that were gathered before, by whoever calls it. Both multiply in bf16, hence their bound.
    """
    kernel, case = _module(text)._triton_rope, case._replace(strided=False)
    heads, kv_heads, size, rotary_dim = case.num_heads, case.num_kv_heads, case.head_size, case.rotary_dim
    padded = 1 << (rotary_dim - 1).bit_length()
    values: dict[str, Any] = {"n_qh": heads, "n_kh": kv_heads, "hd": size, "rope_dim": rotary_dim}
    values |= {"pad_rope_dim": padded, "IS_NEOX_STYLE": case.is_neox_style}
    gathers = "cos_sin_ptr" in kernel.arg_names
    if gathers:
        absent = ("cos_ptr", "cos_row_stride", "sin_ptr", "sin_row_stride")
        values |= dict.fromkeys(absent) | {"USE_COS_SIN": True, "BLOCK_SIZE_HEAD": 64 if case.is_neox_style else 32}
    else:
        blocks = {"pad_n_qh": 1 << (heads - 1).bit_length(), "pad_n_kh": 1 << (kv_heads - 1).bit_length()}
        values |= blocks | {"BLOCK_SIZE": max(blocks.values())}
    types = {name: kind(name) for name in kernel.arg_names if name not in values}
    count = min(num_tokens, chip.vector_cores)

    def arguments(data: Tensors) -> list[np.ndarray | int]:
        tensors: list[np.ndarray | int] = [data.q, heads * size, data.k, kv_heads * size]
        if gathers:
            return [*tensors, data.cache, rotary_dim, data.positions, num_tokens]
        halves = [cases.zeros(num_tokens, rotary_dim // 2) for _ in range(2)]
        for half, part in zip(halves, np.split(data.cache[data.positions], 2, -1), strict=True):
            half[:] = part
        return [*tensors, halves[0], rotary_dim // 2, halves[1], rotary_dim // 2, num_tokens]

    more = num_tokens % count
    alike = {0: more, count - 1: count - more} if more else {0: count}
    compiled = programs.compiled(kernel, types, values, chip)
    return Launch(
        case, num_tokens, compiled, alike, lambda p: range(p, num_tokens, count), 0.06, arguments, False
    )  # fmt: skip


def kind(name: str) -> str:
    """Its type, as Triton writes it."""
    pointers = {"positions_ptr": "*i64", "pos_ptr": "*i64", "cos": "*bf16", "sin": "*bf16"}
    return pointers.get(name, "*bf16" if name.endswith("_ptr") else "i32")


@functools.cache
def _module(text: str) -> ModuleType:
    return upstream.kernel_module(text, Path(tempfile.mkdtemp()))


def release(version: str) -> str:
    """The text of that release's ``rope.py``, from this environment or from the stack's of its own."""
    found = upstream.source()
    if found and found[0] == version:
        return found[1]
    environment = Path(sys.prefix).parent / f"stack-{version}"
    installed = list(environment.glob(f"lib/python*/site-packages/{upstream.MEMBER}"))
    if not installed:
        raise FileNotFoundError(f"vllm-ascend {version} is neither in this environment nor in {environment}")
    return installed[0].read_text()
