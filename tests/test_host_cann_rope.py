"""Our kernel and op on the host CANN: the fp32 reference rounded once, bit for bit; eager, compiled and captured."""

import pytest

from rope_patch.kernels.plan import Device
from tests.host_cann import chips
from tests.host_cann.fixture import needs_build
from tests.shapes import SHAPES as IN_THE_WILD

pytest.importorskip("rope_patch.ops")
pytestmark = needs_build

# (head_size, rotary_dim, query heads, key heads, NeoX): a power of two or not, full and partial. Each costs compiles;
# the kernel itself is tested over many more here, by running tests/test_kernel.py on the host CANN.
SHAPES = [
    (128, 128, 32, 8, True),
    (128, 64, 32, 2, False),
    (192, 192, 64, 64, True),
    (80, 20, 32, 32, True),
    (96, 96, 4, 2, False),
    (64, 64, 16, 1, False),
    (256, 64, 16, 2, True),
]


@pytest.fixture
def op(npu):
    from rope_patch import report

    report.fallbacks.clear()
    yield npu.ops.rope_patch.rotary_embedding
    assert not report.fallbacks, "the reference answered, not the kernel"


def case(torch, shape, dtype, tokens, strided):
    """positions, query, key, cache on the host; strided tensors are slices of one qkv, as vLLM hands them over."""
    head_size, rotary_dim, heads, kv_heads, _ = shape
    torch.manual_seed(tokens)
    widths = [heads * head_size, kv_heads * head_size]
    qkv = torch.randn(tokens, sum(widths)).to(dtype)
    query, key = qkv.split(widths, -1) if strided else (t.contiguous() for t in qkv.split(widths, -1))
    return torch.randint(0, 97, (tokens,)), query, key, torch.randn(97, rotary_dim).to(dtype)


def on_npu(torch, query, key, strided):
    """On the device as on the host: slices of one tensor, or each its own."""
    if not strided:
        return query.npu(), key.npu()
    return torch.cat((query, key), -1).npu().split([query.shape[-1], key.shape[-1]], -1)


def expected(positions, x, cache, shape):
    from rope_patch.kernels.reference import rotate

    head_size, rotary_dim, _, _, is_neox_style = shape
    return rotate(positions, x.unflatten(-1, (-1, head_size)), cache, rotary_dim, is_neox_style).flatten(-2)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_op_is_the_reference_bit_for_bit(npu, op, shape, dtype, strided):
    for tokens in (0, 1, 2, 67):
        positions, query, key, cache = case(npu, shape, getattr(npu, dtype), tokens, strided)
        q, k = on_npu(npu, query, key, strided)
        assert q.is_contiguous() == (not strided or tokens < 2)
        got_q, got_k = op(positions.npu(), q, k, cache.npu(), shape[0], shape[1], shape[4])
        assert npu.equal(got_q.cpu(), expected(positions, query, cache, shape))
        assert npu.equal(got_k.cpu(), expected(positions, key, cache, shape))


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_fullgraph_it_is_the_same(npu, op, shape, strided):
    positions, query, key, cache = case(npu, shape, npu.bfloat16, 5, strided)
    npu._dynamo.reset()  # one code object, many shapes: else dynamo gives up on it

    def layer(positions, query, key, cache):
        q, k = op(positions, query, key, cache, shape[0], shape[1], shape[4])
        return q + 0, k + 0

    compiled = npu.compile(layer, backend="aot_eager", fullgraph=True)
    q, k = compiled(positions.npu(), *on_npu(npu, query, key, strided), cache.npu())
    assert npu.equal(q.cpu(), expected(positions, query, cache, shape))
    assert npu.equal(k.cpu(), expected(positions, key, cache, shape))


def test_captured_and_replayed_it_follows_its_inputs(npu, op):
    shape = SHAPES[1]
    positions, query, key, cache = case(npu, shape, npu.bfloat16, 5, False)
    inputs = [t.npu() for t in (positions, query, key, cache)]
    op(*inputs, shape[0], shape[1], shape[4])  # what needs compiling or checking is done before a capture
    graph = npu.npu.NPUGraph()
    with npu.npu.graph(graph):
        q, _ = op(*inputs, shape[0], shape[1], shape[4])
    fresh = npu.randn_like(query)
    inputs[1].copy_(fresh)
    graph.replay()
    assert npu.equal(q.cpu(), expected(positions, fresh, cache, shape))


CHIP = Device(chips.current().vector_cores, chips.current().ub_bytes, powers_of_two=False)


def facts_of(shape, num_tokens, in_place):
    """The facts of our kernel as ``launch`` would compile it for bf16, with its plan."""
    from rope_patch.kernels.plan import Shape, make_plan
    from rope_patch.kernels.rope import rotary_kernel
    from tests.host_cann import facts

    head_size, rotary_dim, heads, kv_heads, is_neox_style = shape
    stride = (heads + 2 * kv_heads) * head_size
    plan = make_plan(
        Shape(heads, kv_heads, head_size, rotary_dim, stride, rotary_dim // 2 * 2),
        num_tokens,
        CHIP,
    )
    constants = {
        "Q_HEADS": heads,
        "K_HEADS": kv_heads,
        "HEAD_SIZE": head_size,
        "HALF": rotary_dim // 2,
        "HALF_LANES": plan.half_lanes,
        "REST_LANES": plan.rest_lanes,
        "BLOCK_T": plan.block_tokens,
        "BLOCK_Q": plan.block_heads,
        "BLOCK_K": plan.block_kv_heads,
        "IS_NEOX": is_neox_style,
        "WIDE_CACHE": False,
        "PADDED": plan.padded,
        "TRUNCATING_CAST": False,
    } | ({"q_out_ptr": None, "k_out_ptr": None} if in_place else {})
    types = {"positions_ptr": "*i64"}
    signature = {
        name: types.get(name, "*bf16" if name.endswith("_ptr") else "i32")
        for name in rotary_kernel.arg_names
        if name not in constants
    }
    return plan, facts.of(rotary_kernel, signature, constants)


@pytest.mark.parametrize("in_place", [False, True], ids=["fresh", "in place"])
@pytest.mark.parametrize("num_tokens", [1, 8192])
@pytest.mark.parametrize("shape", [shape[1:] for shape in IN_THE_WILD], ids=[shape.model for shape in IN_THE_WILD])
def test_the_kernel_fits_and_touches_no_element_by_itself(shape, num_tokens, in_place):
    plan, found = facts_of(shape, num_tokens, in_place)
    assert found.ub_bytes <= CHIP.tile_bytes
    assert len(found.scalar_accesses) <= (plan.block_tokens == 1), "one token's position, at most"


@pytest.mark.parametrize("num_tokens", [1, 39, 5000])
def test_the_grid_is_at_most_the_chips_vector_cores(npu, num_tokens):
    """As the runtime saw it. Tokens enough for every core keep at least nine of ten at work."""
    from rope_patch.kernels.launch import launch
    from tests.host_cann import facts
    from tests.rotations import rotation

    call = rotation(num_tokens, 8, 2, 128, 64).call()
    outputs = [npu.empty(num_tokens, heads * 128, dtype=npu.bfloat16, device="npu") for heads in (8, 2)]
    (found,) = facts.launched(npu, lambda: launch(call, *outputs))
    cores = chips.current().vector_cores
    assert found.grid[1:] == (1, 1)
    assert found.grid[0] <= cores
    assert found.grid[0] >= min(num_tokens, cores * 9 // 10)
    assert len(found.scalar_accesses) <= (num_tokens <= cores), "one token's position, at most"


def test_in_place_the_full_tile_reads_and_writes_each_rotated_byte_once():
    shape = (128, 64, 32, 2, False)
    plan, found = facts_of(shape, 8192, in_place=True)
    tile = [t for t in found.transfers if t.bytes is not None and t.argument == 0]
    rotated = plan.block_tokens * plan.block_heads * 64 * 2
    assert [(t.direction, t.bytes) for t in tile] == [("load", rotated), ("store", rotated)]
