"""Plans of norm and rotation on Ascend: any number of tokens is served, all heads of q, k and v once."""

import math

import pytest

pytest.importorskip("torch", reason="plans need torch")
pytest.importorskip("triton", reason="plans need triton")

from rope_patch.kernels.normed_shape import NormedShape
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import make_plan, plans_of
from rope_patch.operators.norm_rotation import KERNELS as NORMED

DEVICE = Device(max_programs=40, tile_bytes=192 * 1024, powers_of_two=False)
SHAPES = [
    NormedShape(head_size, rotary_dim, heads, kv_heads, 1e-6, (heads + 2 * kv_heads) * head_size, 2, 2, has_bias=bias)
    for head_size, rotary_dim in ((128, 128), (128, 64), (64, 64), (256, 64), (256, 256), (80, 20), (512, 512))
    for heads, kv_heads in ((1, 1), (12, 1), (32, 8), (6, 4), (64, 64), (96, 8))
    for bias in (False, True)
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_tokens_has_a_plan_that_takes_it_and_all_heads(shape: NormedShape) -> None:
    for num_tokens in (1, 2, 7, 40, 300, 5000):
        plan = make_plan(NORMED, shape, num_tokens, DEVICE)
        assert plan.least_tokens <= num_tokens
        programs, each = plan.grid(num_tokens, DEVICE)
        assert programs <= DEVICE.max_programs
        assert programs * each >= num_tokens * (plan.units if plan.splits_tokens else 1)
        values = plan.constants(shape)
        q_units, k_units = shape.num_heads / values["BLOCK_Q"], shape.num_kv_heads / values["BLOCK_K"]
        assert q_units % 1 == k_units % 1 == 0, "some heads are left over"
        if "parts" not in plan.function.__name__:
            assert k_units <= q_units, "units of k without one of q are not served"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_tile_fits_the_unified_buffer_and_its_first_use_check_the_scratch(shape: NormedShape) -> None:
    for plan in plans_of(NORMED, shape, DEVICE):
        if plan.block_tokens > 1:
            assert plan.fits(shape, DEVICE)
            assert plan.block_tokens <= shape.tried_tokens(DEVICE)
        assert math.isfinite(plan.cycles(shape, DEVICE, plan.least_tokens))
