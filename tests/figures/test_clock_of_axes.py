"""Three positions a token, by the clock: what they cost beside one, and beside vLLM's ``triton_mrope``."""

import json

import pytest

from tests.conftest import ROOT
from tests.host_cann import environment

pytestmark = pytest.mark.skipif(not environment.active(), reason="executes kernels: on the host CANN")

if environment.active():
    from scripts.model_ascend import multimodal
    from tests.host_cann import chips

    CASES = multimodal.CASES
else:
    CASES = {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_three_positions_cost_at_most_15_percent_more_than_one_at_8192_tokens(case: "multimodal.Case") -> None:
    found = multimodal.row(case, CASES[case], 8192, chips.CHIPS["910B3"], upstream=False)
    assert found["three positions"]["wrong_lanes"] == 0
    assert found["three positions"]["us"] <= 1.15 * found["one position"]["us"]
    stored = json.loads((ROOT / "scripts" / "model_ascend" / "multimodal.json").read_text())["cases"][case.name]
    (before,) = (row for row in stored if row["tokens"] == 8192)
    for name, kept in found.items():
        assert before[name] == kept, "the stored results are not the clock's"


def test_vllms_kernel_with_its_gathering_takes_at_least_three_times_as_long() -> None:
    case = next(case for case in CASES if case.name.startswith("Qwen3-VL"))
    for num_tokens in (1, 512):
        found = multimodal.row(case, CASES[case], num_tokens, chips.CHIPS["910B3"])
        assert found["vLLM"]["wrong_lanes"] == 0
        ours, theirs = found["three positions"]["us"], found["vLLM"]
        assert theirs["us"] + theirs["before_us"] >= 3 * ours
