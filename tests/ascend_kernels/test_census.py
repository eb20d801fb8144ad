"""Part of the census (``scripts/census``): Huawei's compilers take our kernels, but for those that are named here."""

import functools
import os

import pytest

pytest.importorskip("triton")
pytest.importorskip("triton.backends.ascend", reason="needs triton-ascend's front end")
if os.environ["TRITON_INTERPRET"] == "1":  # as tests/conftest.py has it, unless told otherwise
    pytest.skip(
        "Triton interprets here: TRITON_INTERPRET=0 pytest tests/ascend_kernels/test_census.py", allow_module_level=True
    )

import json
import statistics

from scripts.census import asking, report, reports
from scripts.census.asking import Answer, Question
from scripts.census.kernels import Kernel, cases, kernels
from tests.conftest import ROOT
from tests.host_cann import bishengir, chips, final_program
from tests.shapes import SHAPES

COMPILERS = bishengir.installed()
CHIP = chips.CHIPS["910B3"]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason=bishengir.MISSING)
by_each = pytest.mark.parametrize("compiler", COMPILERS, ids=str)

# Whole registers and single lanes, rows of whole blocks and others; every plan, type and way of calling at least once.
NEOX = (
    ("Llama-3.1-8B", "bf16", True, True, -1),
    ("Llama-3.1-8B", "fp16", False, False, 0),
    ("GLM-5.2 draft", "bf16", True, True, 1),
    ("Gemma-4", "fp32", False, True, -1),
    ("StableLM-3B", "bf16", False, True, -1),
    ("Phi-4-mini", "fp32", True, False, 1),
    ("GPT-NeoX-20B", "fp16", True, True, 0),
)
# Pairs as whole words, and by slices.
GPTJ = (
    ("GLM-4-9B", "bf16", False, True, 0),
    ("GLM-4-9B", "bf16", True, True, -1),
    ("ERNIE-4.5", "fp16", True, True, -1),
    ("DeepSeek MLA", "bf16", False, True, 1),
    ("GPT-J", "fp32", True, False, -1),
)


def kernel(model: str, dtype: str, fresh: bool, key: bool, step: int) -> Kernel:
    shape = next(shape for shape in SHAPES if shape.model == model)
    return kernels(shape, dtype, fresh, key, CHIP)[step][0]


@needs_compiler
@by_each
@pytest.mark.parametrize("case", NEOX + GPTJ, ids=lambda case: " ".join(map(str, case)))
def test_every_kernel_is_taken_without_a_note(case, compiler):
    answer = asking.ask(Question(compiler, CHIP, lowered(*case)))
    assert answer.clean, answer
    assert 0 < answer.ub_bytes <= answer.ub_available == CHIP.ub_bytes


@functools.cache
def lowered(*case: str | bool | int) -> str:
    """Each kernel once, for all compilers."""
    return kernel(*case).linalg()


@needs_compiler
def test_the_compiler_overflows_as_a_user_reported():
    """64 heads of 192, vllm-ascend's kernel: the compilers of that time want a little more than there is; 1.2.0 does
    with less, and says so."""
    try:
        found = reports.answers(COMPILERS[-1:], reports.REPORTS[:1])[reports.REPORTS[0]]
    except reports.NotHere as reason:
        pytest.skip(str(reason))
    (answer,) = found.values()
    assert not answer.clean
    assert answer.required_bits == 1581056 if COMPILERS[-1].version < "1.2.0" else answer.error is None


FILES = {1: "results.json", 3: "three_positions.json"}  # by positions a token
KEPT = {n: json.loads((ROOT / "scripts" / "census" / file).read_text())["kernels"] for n, file in FILES.items()}


@pytest.mark.parametrize("positions", FILES)
def test_what_is_kept_is_of_the_kernels_as_they_are(positions):
    """Else: ``python -m scripts.census --positions N --json scripts/census/FILE``, and look at what it says."""
    kept = {json.dumps(entry | {"answers": {}}) for entry in KEPT[positions]}
    assert [case for case in cases(CHIP, positions) if json.dumps(report.record(case, {}, {})) not in kept] == []


@pytest.mark.parametrize("positions", FILES)
@pytest.mark.parametrize("who", ["1.0.0", "1.1.0", "1.2.0"])
def test_what_is_kept_says_that_all_are_taken_without_a_note_in_the_bytes_that_were_predicted(who, positions):
    """A number of bytes stands for a kernel that was taken without a note."""
    of_others = [
        entry for entry in KEPT[positions] if not all("-a5" in name for name in entry["answers"])
    ]  # than the 950
    used = [next(found for name, found in entry["answers"].items() if name.split()[0] == who) for entry in of_others]
    assert [entry for entry, found in zip(of_others, used, strict=True) if not isinstance(found, int)] == []
    over = [entry["predicted"] / found for entry, found in zip(of_others, used, strict=True)]
    assert min(over) >= 1
    assert statistics.median(over) <= 7 / 6


PROGRAM = """
  func.func @one() { %0 = arith.constant 999999 : i64
  func.func @two() {
    %c64_i64 = arith.constant 64 : i64
    %1 = llvm.mlir.constant(4096 : i64) : i64
    %2 = hivm.hir.pointer_cast(%c64_i64, %1) : memref<3x4xbf16, #hivm.address_space<ub>>
    %3 = hivm.hir.pointer_cast(%c64_i64) : memref<9999xi8, #hivm.address_space<gm>>
"""


def test_the_end_of_the_highest_buffer():
    assert final_program.ub_bytes(PROGRAM) == 4096 + 24


@pytest.mark.parametrize("unknown", ["pointer_cast(%c64_i64)[%5] : memref<?xi8,", "pointer_cast(%0) : memref<8xi8,"])
def test_a_buffer_whose_end_is_not_in_the_text_is_no_number(unknown):
    with pytest.raises(ValueError, match="cannot tell"):
        final_program.ub_bytes(PROGRAM + f"%9 = hivm.hir.{unknown} #hivm.address_space<ub>>\n")


def test_a_silent_second_attempt_is_a_note():
    said = "loc(): error: Failed to run BiShengHIR pipeline\nloc(): error: ub overflow, requires 9 bits while 8 bits\n"
    compiled = bishengir.verdict(said, "module {}")
    assert compiled.ok
    assert compiled.notes == ("taken at another attempt, after: ub overflow, requires 9 bits while 8 bits",)


def test_models_that_share_a_kernel_count_once():
    case = report.Case("a", True, "bf16", True, True, 0, kernel(*NEOX[0]), 1536)
    answer = Answer((), None, None, 1024, 2048)
    table = report.table({case: {"9.9.9": answer}, case._replace(model="b"): {"9.9.9": answer}})
    assert "| 9.9.9 | NeoX | bf16 | 1 | 1 | 0 | 0 | 0 | 1.0 | 2 |" in table
