"""Norm and rotation: Huawei's compilers take the kernels without a note; executed, they are right, and in order."""

import os

import pytest

pytest.importorskip("triton")
pytest.importorskip("triton.backends.ascend", reason="needs triton-ascend's front end")
if os.environ["TRITON_INTERPRET"] == "1":  # as tests/conftest.py has it, unless told otherwise
    pytest.skip(
        "Triton interprets here: TRITON_INTERPRET=0 pytest tests/ascend_kernels/test_normed.py", allow_module_level=True
    )

import json
from unittest import mock

from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import plans_of
from rope_patch.operators.norm_rotation import KERNELS as NORMED
from scripts.census.normed import cases, record
from scripts.model_ascend import programs
from scripts.model_ascend.cases import Case
from scripts.model_ascend.normed import MODELS, ours
from tests.conftest import ROOT
from tests.host_cann import bishengir, chips, front_end
from tests.host_cann.fixture import needs_build

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


def test_what_is_kept_is_of_the_kernels_as_they_are():
    """Else: ``python -m scripts.census.normed --json scripts/census/normed.json``, and look at what it says."""
    kept = json.loads((ROOT / "scripts" / "census" / "normed.json").read_text())
    records = [json.dumps({key: value for key, value in entry.items() if key != "answers"}) for entry in kept]
    assert [case for case in cases(CHIP) if json.dumps(record(case)) not in records] == []


def test_what_is_kept_says_that_every_compiler_takes_all_for_every_chip_without_a_note():
    kept = json.loads((ROOT / "scripts" / "census" / "normed.json").read_text())
    refused = [
        (entry["model"], entry["kernel"], who, said)
        for entry in kept
        for who, said in entry["answers"].items()
        if not isinstance(said, int)
    ]
    assert refused == []
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        assert all(any(who.startswith(version) for who in entry["answers"]) for entry in kept)


# Heads of one register, of several, of none; those that cannot be cut.
MORE = (
    Case("64/64 16/4, 64, 64", 16, 4, 64, 64, True),
    Case("256/256 8/2, 256, 256", 8, 2, 256, 256, True),
    Case("96/96 16/16, 96, 96", 16, 16, 96, 96, True),
    Case("80/20 6/2, 80, 20", 6, 2, 80, 20, True),
)


@needs_build
@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.2.0"])
@pytest.mark.parametrize("num_tokens", [1, 90], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("case", MODELS + MORE, ids=lambda case: case.name.split()[0])
def test_executed_as_each_compiler_has_it_every_result_is_rounded_once(case, num_tokens, version):
    """With v beside q and k in the rows: CANN 8.5's compiler once took the next token's heads where v's are."""
    if version not in [compiler.version for compiler in COMPILERS]:
        pytest.skip(f"no compiler {version}")
    with mock.patch.multiple(programs, COMPILER=version, _kernels={}):
        executed, error = ours(case, num_tokens, CHIP)
    assert executed.notes == ()
    assert error <= 2, "halves of a unit of bf16, and fp32's own"
