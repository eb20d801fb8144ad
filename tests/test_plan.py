"""The plan: every token once, nothing over budget, few compiles. Pure Python."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rope_patch.kernels.plan import BYTES_PER_HALF_LANE, MAX_TILE_OFFSET, Device, Shape, make_plan, token_blocks

KIB = 1024
ASCEND_910B3 = Device(max_programs=40, tile_bytes=192 * KIB, powers_of_two=False)
CUDA = Device(max_programs=2112, tile_bytes=72 * KIB, powers_of_two=True)
DEVICES = st.sampled_from([ASCEND_910B3, CUDA, Device(max_programs=2, tile_bytes=256 * KIB, powers_of_two=True)])


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    rotary_dim = 2 * draw(st.integers(1, 288))
    head_size = rotary_dim + draw(st.integers(0, 512))
    heads = draw(st.integers(1, 128))
    return Shape(
        num_heads=heads,
        num_kv_heads=draw(st.integers(0, heads)),
        head_size=head_size,
        rotary_dim=rotary_dim,
        token_stride=draw(st.one_of(st.just(heads * head_size), st.integers(heads * head_size, 2**31))),
        half_row_bytes=rotary_dim // 2 * draw(st.sampled_from((2, 4))),
    )


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20), device=DEVICES)
def test_programs_cover_every_token_once_and_none_is_idle(shape: Shape, num_tokens: int, device: Device) -> None:
    plan = make_plan(shape, num_tokens, device)
    programs, tokens_per_program = plan.grid(num_tokens, device)
    assert 1 <= programs <= device.max_programs
    assert tokens_per_program % plan.block_tokens == 0
    assert (programs - 1) * tokens_per_program < num_tokens <= programs * tokens_per_program


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_on_ascend_a_tile_fits_the_unified_buffer_and_nothing_is_padded(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, ASCEND_910B3)
    assert not plan.padded
    assert plan.half_lanes == shape.rotary_dim // 2
    assert shape.num_heads % plan.block_heads == 0
    assert max(1, shape.num_kv_heads) % plan.block_kv_heads == 0
    blocks_of_16 = -(-shape.rotary_dim // 2 // 16), -(-(shape.head_size - shape.rotary_dim) // 16)
    lanes = 16 * blocks_of_16[0] + 8 * blocks_of_16[1]
    for heads in (plan.block_heads, plan.block_kv_heads):
        if plan.block_tokens * heads > 1:
            assert plan.block_tokens * heads * lanes * BYTES_PER_HALF_LANE <= ASCEND_910B3.tile_bytes


@settings(max_examples=500, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20), device=DEVICES)
def test_offsets_inside_a_tile_are_32_bit(shape: Shape, num_tokens: int, device: Device) -> None:
    plan = make_plan(shape, num_tokens, device)
    assert (plan.block_tokens - 1) * shape.token_stride <= MAX_TILE_OFFSET


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_mainline_triton_gets_powers_of_two(shape: Shape, num_tokens: int) -> None:
    plan = make_plan(shape, num_tokens, CUDA)
    for size in (plan.block_tokens, plan.block_heads, plan.block_kv_heads, plan.half_lanes, plan.rest_lanes):
        assert size & (size - 1) == 0
    assert plan.half_lanes >= shape.rotary_dim // 2
    assert plan.padded


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), device=DEVICES)
def test_a_shape_has_at_most_three_plans_however_many_tokens(shape: Shape, device: Device) -> None:
    plans = {make_plan(shape, num_tokens, device) for num_tokens in (*range(1, 4097, 5), 2**17, 2**20)}
    assert len(plans) <= 3
    assert {plan.block_tokens for plan in plans} <= set(token_blocks(shape, device))


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), num_tokens=st.integers(1, 2**20))
def test_on_ascend_rows_that_are_not_whole_blocks_are_not_gathered(shape: Shape, num_tokens: int) -> None:
    if shape.half_row_bytes % 32:
        assert make_plan(shape, num_tokens, ASCEND_910B3).block_tokens == 1


def test_one_token_is_one_tile_and_a_prefill_takes_the_largest() -> None:
    shape = Shape(num_heads=12, num_kv_heads=1, head_size=128, rotary_dim=64, token_stride=1792, half_row_bytes=64)
    blocks = token_blocks(shape, ASCEND_910B3)
    assert make_plan(shape, 1, ASCEND_910B3).block_tokens == 1
    assert make_plan(shape, 8192, ASCEND_910B3).block_tokens == blocks[-1] > 1
