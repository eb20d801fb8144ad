"""Our kernel as ``launch`` would compile it for a shape; needs no device."""

from typing import Any, NamedTuple

from rope_patch.kernels.ascend import AscendPlan
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import make_plan
from rope_patch.kernels.shape import Rotation, Shape
from rope_patch.operators.rotation import KERNELS
from tests import shapes
from tests.host_cann import chips, front_end

CHIP = chips.current()
DEVICE = Device(CHIP.vector_cores, CHIP.ub_bytes, powers_of_two=False)
ITEM = {"bf16": 2, "fp16": 2, "fp32": 4}


class Kernel(NamedTuple):
    plan: AscendPlan
    ub_bytes: int  # of the unified buffer, as the plan predicts
    linalg: str
    row: int  # elements from one token to the next, of q and k as slices of qkv


def kernel(shape: shapes.ModelShape, num_tokens: int, fresh: bool, dtype: str = "bf16", axes: str = "") -> Kernel:
    """The kernel for ``num_tokens`` tokens, with q and k as slices of one qkv."""
    asked = Rotation(shape.head_size, shape.rotary_dim, shape.is_neox_style, axes)
    heads = shape.num_heads, shape.num_kv_heads
    row = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    item = ITEM[dtype]
    words = "" if shape.is_neox_style or item == 4 else f"{dtype} words"
    described = Shape(asked, *heads, token_stride=row, itemsize=item, cache_itemsize=item, fresh=fresh, words=words)
    plan = make_plan(KERNELS, described, num_tokens, DEVICE)
    values: dict[str, Any] = plan.constants(described)
    values |= {} if fresh else {"q_out_ptr": None, "k_out_ptr": None}
    kinds = {"positions_ptr": "*i64"}
    if plan.in_words:
        kinds |= dict.fromkeys(("q_ptr", "k_ptr", "q_out_ptr", "k_out_ptr"), "*i32")
    function = plan.function
    names = front_end.arguments(function, values)
    signature = {name: kinds.get(name, f"*{dtype}" if name.endswith("_ptr") else "i32") for name in names}
    return Kernel(plan, plan.bytes_of(described, DEVICE), front_end.linalg(function, signature, values), row)
