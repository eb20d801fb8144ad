"""Norm and rotation on the host CANN: what the kernels move, and where they read positions."""

import pytest

from rope_patch.kernels.launch import device_facts
from tests.host_cann.fixture import needs_build

pytestmark = needs_build


@pytest.mark.parametrize("num_tokens", [1, 3, 89])
def test_positions_are_read_from_global_memory_and_never_from_the_unified_buffer(npu, num_tokens):
    """vllm-ascend #16674 blames scalar reads from there, which nothing had ordered behind the load."""
    from rope_patch.kernels.planning import make_plan
    from rope_patch.operators.norm_rotation import KERNELS as NORMED
    from tests.host_cann import facts
    from tests.normed import assert_normed, normed

    case = normed(num_tokens, 4, 2, 128, 64)
    plan = make_plan(NORMED, case.shape, num_tokens, device_facts(case.qkv.device))
    programs, each = plan.grid(num_tokens, device_facts(case.qkv.device))
    runs = (min(each, num_tokens * plan.units - program * each) for program in range(programs))
    rows = sum(-(-run // plan.block_tokens) * plan.block_tokens for run in runs)
    (found,) = facts.launched(npu, lambda: case.launch(plan))
    assert found.buffer_scalars == 0
    assert found.global_scalars == rows, "one position for each row of cosines"
    assert found.bytes_moved("load", case.cos) == rows * 64 * 2
    assert_normed(case)
    if plan.units == 1:
        width = case.shape.heads * 128 * 2
        assert found.bytes_moved("load", case.qkv) == rows * width, "each byte once, but for tiles that begin early"
        assert sum(found.bytes_moved("store", x) for x in case.outputs if x is not None) == rows * width
