"""The three kernels as they are launched: ours, the seed's and upstream's, those two from their wheels."""

import functools
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rope_patch.kernels.launch import constants
from rope_patch.kernels.plan import Device, make_plan
from rope_patch.kernels.plan import Shape as PlanShape
from rope_patch.kernels.rope import rotary_kernel
from scripts.model_ascend.launch import Launch
from tests.host_cann import chips, front_end, upstream

ITEM = 2  # bf16


class Case(NamedTuple):
    """A rotation of q and k in bf16, the cache too; strided tensors are slices of one qkv."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    strided: bool = True

    @property
    def row(self) -> int:
        """Elements from one token to the next, of a strided tensor."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    def least_bytes(self, num_tokens: int) -> int:
        """What any kernel must move: q and k in and out, whole heads into fresh outputs; cos and sin, positions."""
        width = self.head_size if self.strided and num_tokens > 1 else self.rotary_dim
        heads = (self.num_heads + self.num_kv_heads) * width * ITEM * 2
        return num_tokens * (heads + self.rotary_dim * ITEM + 8)

    def copied_bytes(self, num_tokens: int) -> tuple[int, ...]:
        """Of the tensors that upstream and the seed make contiguous; one token's slice is contiguous already."""
        if not self.strided or num_tokens == 1:
            return ()
        return tuple(num_tokens * heads * self.head_size * ITEM for heads in (self.num_heads, self.num_kv_heads))


def ours(case: Case, num_tokens: int, chip: chips.Chip) -> Launch:
    """As ``kernels/launch.py`` starts it."""
    fresh = case.strided and num_tokens > 1
    device = Device(chip.vector_cores, chip.ub_bytes, powers_of_two=False, slices=True)
    heads = case.num_heads, case.num_kv_heads, case.head_size, case.rotary_dim, case.is_neox_style
    rows = (case.row, case.row) if case.strided else (heads[0] * heads[2], heads[1] * heads[2])
    shape = PlanShape(*heads, token_stride=max(rows), itemsize=ITEM, cache_itemsize=ITEM, fresh=fresh)
    plan = make_plan(shape, num_tokens, device)
    values = constants(shape, plan) | ({} if fresh else {"q_out_ptr": None, "k_out_ptr": None})
    signature = {name: _kind(name) for name in rotary_kernel.arg_names if name not in values}
    programs, each = plan.grid(num_tokens, device)
    strides = (case.rotary_dim, rows[0], case.head_size, rows[1], case.head_size)
    if plan.units:
        alike = _alike(programs, each, num_tokens * plan.units, plan.units)
    else:
        alike = {0: programs - 1, programs - 1: 1} if programs > 1 else {0: 1}
    return Launch(_linalg(rotary_kernel, signature, values), (num_tokens, each, 4096, *strides), alike)


def _alike(programs: int, each: int, items: int, units: int) -> dict[int, int]:
    """A program for every kind there is, with how many are of it: of the same blocks of heads, in the same order."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for program in range(programs):
        first = program * each
        kinds.setdefault((first % units, min(each, items - first)), []).append(program)
    return {found[0]: len(found) for found in kinds.values()}


def theirs(case: Case, num_tokens: int, chip: chips.Chip, text: str) -> Launch:
    """vllm-ascend's ``_triton_rope`` as its ``rope_forward_triton`` starts it; q and k are contiguous by then.

    0.13.0 takes cos and sin that were gathered before, by whoever calls it; that gathering is not counted.
    """
    kernel = _module(text)._triton_rope
    heads, kv_heads, size, rotary_dim = case.num_heads, case.num_kv_heads, case.head_size, case.rotary_dim
    padded = 1 << (rotary_dim - 1).bit_length()
    values: dict[str, Any] = {"n_qh": heads, "n_kh": kv_heads, "hd": size, "rope_dim": rotary_dim}
    values |= {"pad_rope_dim": padded, "IS_NEOX_STYLE": case.is_neox_style}
    if "cos_sin_ptr" in kernel.arg_names:
        absent = ("cos_ptr", "cos_row_stride", "sin_ptr", "sin_row_stride")
        values |= dict.fromkeys(absent) | {"USE_COS_SIN": True, "BLOCK_SIZE_HEAD": 64 if case.is_neox_style else 32}
        strides = (heads * size, kv_heads * size, rotary_dim)
    else:
        blocks = {"pad_n_qh": 1 << (heads - 1).bit_length(), "pad_n_kh": 1 << (kv_heads - 1).bit_length()}
        values |= blocks | {"BLOCK_SIZE": max(blocks.values())}
        strides = (heads * size, kv_heads * size, rotary_dim // 2, rotary_dim // 2)
    signature = {name: _kind(name) for name in kernel.arg_names if name not in values}
    programs = min(num_tokens, chip.vector_cores)
    more = num_tokens % programs
    alike = {0: more, programs - 1: programs - more} if more else {0: programs}
    return Launch(_linalg(kernel, signature, values), (*strides, num_tokens), alike)


def _kind(name: str) -> str:
    pointers = {"positions_ptr": "*i64", "pos_ptr": "*i64", "cos": "*bf16", "sin": "*bf16"}
    return pointers.get(name, "*bf16" if name.endswith("_ptr") else "i32")


_compiled: dict[tuple[Any, ...], str] = {}


def _linalg(kernel: Any, signature: dict[str, str], values: dict[str, Any]) -> str:
    key = (id(kernel), *values.items())
    if key not in _compiled:
        _compiled[key] = front_end.linalg(kernel, signature, values)
    return _compiled[key]


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
