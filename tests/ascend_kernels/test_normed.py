"""Norm and rotation: Huawei's compilers take the kernels without a note; executed, they are right, and in order."""

import os

import pytest

pytest.importorskip("triton")
pytest.importorskip("triton.backends.ascend", reason="needs triton-ascend's front end")
if os.environ["TRITON_INTERPRET"] == "1":  # as tests/conftest.py has it, unless told otherwise
    pytest.skip(
        "Triton interprets here: TRITON_INTERPRET=0 pytest tests/ascend_kernels/test_normed.py", allow_module_level=True
    )

from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import plans_of
from rope_patch.operators.norm_rotation import KERNELS as NORMED
from tests.host_cann import bishengir, chips, front_end

COMPILERS = bishengir.installed()
CHIP = chips.CHIPS["910B3"]
DEVICE = Device(CHIP.vector_cores, CHIP.ub_bytes, powers_of_two=False)
needs_compiler = pytest.mark.skipif(not COMPILERS, reason=bishengir.MISSING)
SHAPES = {
    "Qwen3-8B": NormedShape(128, 128, 32, 8, 1e-6, 48 * 128, 2, 2),
    "GLM-4.5 tp8": NormedShape(128, 64, 12, 1, 1e-5, 14 * 128, 2, 2),
}


def linalg(shape: NormedShape, step: int, dtype: str = "bf16") -> str:
    plan = plans_of(NORMED, shape, DEVICE)[step]
    absent = {"gate_out_ptr": shape.has_gate, "q_bias_ptr": shape.has_bias, "k_bias_ptr": shape.has_bias}
    absent |= {"sin_ptr": False, "positions_ptr": shape.by_position}
    values = plan.constants(shape) | {name: None for name, there in absent.items() if not there}
    names = front_end.arguments(plan.function, values)
    kinds = {name: f"*{dtype}" if name.endswith("_ptr") else "i32" for name in names}
    return front_end.linalg(plan.function, kinds | {"positions_ptr": "*i64"}, values)


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS, ids=str)
@pytest.mark.parametrize("step", [0, -1], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_compiler_takes_the_kernels_without_a_note(name: str, step: int, compiler: bishengir.Compiler) -> None:
    compiled = bishengir.compile(linalg(SHAPES[name], step), compiler, CHIP)
    assert compiled.ok, compiled.error
    assert not compiled.notes
