"""The kernels: shapes of models x types x in place and fresh x with and without a key x the plans of each."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from rope_patch.kernels import buffer_ascend, rope, transposed
from rope_patch.kernels.launch import UNIFIED_BUFFER, constants, kernel_of
from rope_patch.kernels.plan import Device, Shape
from rope_patch.kernels.planning import plans_of
from tests.host_cann import front_end
from tests.host_cann.chips import Chip
from tests.shapes import MORE_SHAPES, SHAPES, THREE_POSITIONS, ModelShape

DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4}


class Kernel(NamedTuple):
    """Everything that decides a kernel's source."""

    name: str
    dtype: str
    values: tuple[tuple[str, Any], ...]  # of its constexpr arguments, None pointers among them

    def linalg(self, **options: Any) -> str:
        values = dict(self.values)
        function = getattr(transposed if self.name == "rotary_kernel_transposed" else rope, self.name)
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
    predicted: int  # bytes of the unified buffer, as ``buffer_ascend`` has it

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
    """One for each plan, with the bytes of the unified buffer that are predicted for it.

    Planned as on the device (``launch.device_facts``). Fresh outputs come from slices of a qkv; tensors rotated
    in place are contiguous.
    """
    device = Device(chip.vector_cores, UNIFIED_BUFFER, powers_of_two=False)
    rows = [shape.num_heads, shape.num_kv_heads, shape.num_heads + 2 * shape.num_kv_heads]
    planned = Shape(
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads if key else 0,
        head_size=shape.head_size,
        rotary_dim=shape.rotary_dim,
        is_neox_style=shape.is_neox_style,
        token_stride=(rows[2] if fresh else max(rows[: 1 + key])) * shape.head_size,
        itemsize=DTYPES[dtype],
        cache_itemsize=DTYPES[dtype],
        fresh=fresh,
        words="" if shape.is_neox_style or DTYPES[dtype] == 4 else f"{dtype} words",
        axes=shape.axes,
    )
    absent = {"k_ptr": not key, "q_out_ptr": not fresh, "k_out_ptr": not (fresh and key)}
    pointers = {name: None for name, without in absent.items() if without}
    found = []
    for plan in plans_of(planned, device):
        values = (*constants(planned, plan).items(), *pointers.items())
        found.append((Kernel(kernel_of(plan).__name__, dtype, values), buffer_ascend.bytes_of(plan, planned, device)))
    return found
