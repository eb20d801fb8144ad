"""The kernels: shapes of models x types x in place and fresh x with and without a key x the plans of each."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from rope_patch.kernels.launch import UNIFIED_BUFFER
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import make_plan, plans_of
from rope_patch.kernels.shape import Rotation, Shape
from rope_patch.operators.norm_rotation import KERNELS as NORMED
from rope_patch.operators.rotation import KERNELS
from tests.host_cann import front_end
from tests.host_cann.chips import Chip
from tests.shapes import MORE_SHAPES, SHAPES, THREE_POSITIONS, ModelShape

FUNCTIONS = {kernel.function.__name__: kernel.function for kernel in (*KERNELS, *NORMED)}
DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4}


class Kernel(NamedTuple):
    """Everything that decides a kernel's source."""

    name: str
    dtype: str
    values: tuple[tuple[str, Any], ...]  # of its constexpr arguments, None pointers among them

    def linalg(self, **options: Any) -> str:
        values = dict(self.values)
        function = FUNCTIONS[self.name]
        signature = {name: self._kind(name) for name in front_end.arguments(function, values)}
        return front_end.linalg(function, signature, values, **options)

    def _kind(self, name: str) -> str:
        if name == "positions_ptr":
            return "*i64"
        if name in ("q_ptr", "k_ptr", "q_out_ptr", "k_out_ptr") and "words" in str(dict(self.values).get("PAIRS")):
            return "*i32"
        return f"*{self.dtype}" if name.endswith("_ptr") else "i32"


class Case(NamedTuple):
    """A way to come to a kernel."""

    model: str
    is_neox_style: bool
    dtype: str  # of q, k and the cache
    fresh: bool
    key: bool
    step: int  # which of its plans, from few tokens to many
    kernel: Kernel
    predicted: int  # bytes of the unified buffer, as the plan has it

    @property
    def style(self) -> str:
        return "NeoX" if self.is_neox_style else "GPT-J"


MODELS = {1: (*SHAPES, *MORE_SHAPES), 3: THREE_POSITIONS}  # by positions a token


def cases(chip: Chip, positions: int) -> Iterator[Case]:
    """All cases on one chip of so many positions a token, in a fixed order."""
    for shape in MODELS[positions]:
        for dtype in DTYPES:
            for fresh in (False, True):
                for key in (True, False):
                    for step, (kernel, predicted) in enumerate(kernels(shape, dtype, fresh, key, chip)):
                        yield Case(shape.model, shape.is_neox_style, dtype, fresh, key, step, kernel, predicted)


def kernels(shape: ModelShape, dtype: str, fresh: bool, key: bool, chip: Chip) -> list[tuple[Kernel, int]]:
    """One for each plan, with the bytes of the unified buffer that are predicted for it."""
    device, asked = _device(chip), _shape(shape, dtype, fresh, key)
    absent = {"k_ptr": not key, "q_out_ptr": not fresh, "k_out_ptr": not (fresh and key)}
    pointers = {name: None for name, without in absent.items() if without}
    found = []
    for plan in plans_of(KERNELS, asked, device):
        values = (*plan.constants(asked).items(), *pointers.items())
        found.append((Kernel(plan.function.__name__, dtype, values), plan.bytes_of(asked, device)))
    return found


def planned(
    shape: ModelShape, dtype: str, fresh: bool, key: bool, chip: Chip, num_tokens: int
) -> tuple[dict[str, Any], tuple[int, int]]:
    """The constants of the plan for so many tokens, and its grid."""
    device, asked = _device(chip), _shape(shape, dtype, fresh, key)
    plan = make_plan(KERNELS, asked, num_tokens, device)
    values = {name: value for name, value in plan.constants(asked).items() if value is not None}
    return values, plan.grid(num_tokens, device)


def _device(chip: Chip) -> Device:
    """As ``launch.device_facts`` has it."""
    return Device(chip.vector_cores, UNIFIED_BUFFER, powers_of_two=False)


def _shape(shape: ModelShape, dtype: str, fresh: bool, key: bool) -> Shape:
    """Fresh outputs come from slices of a qkv; tensors rotated in place are contiguous."""
    rows = [shape.num_heads, shape.num_kv_heads, shape.num_heads + 2 * shape.num_kv_heads]
    return Shape(
        Rotation(shape.head_size, shape.rotary_dim, shape.is_neox_style, shape.axes),
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads if key else 0,
        token_stride=(rows[2] if fresh else max(rows[: 1 + key])) * shape.head_size,
        itemsize=DTYPES[dtype],
        cache_itemsize=DTYPES[dtype],
        fresh=fresh,
        words="" if shape.is_neox_style or DTYPES[dtype] == 4 else f"{dtype} words",
    )
