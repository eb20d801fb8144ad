"""Our kernel and op on the host CANN: the fp32 reference rounded once, bit for bit; eager, compiled and captured."""

from dataclasses import replace

import pytest

from rope_patch.kernels.plan import Device
from rope_patch.operators.rotation import KERNELS
from tests.host_cann import chips
from tests.host_cann.fixture import needs_build
from tests.shapes import SHAPES as IN_THE_WILD

pytest.importorskip("rope_patch.operators.op")
pytestmark = needs_build

# (head_size, rotary_dim, query heads, key heads, NeoX): a power of two or not, full and partial. Each costs compiles;
# the kernel itself is tested over many more here, by running tests/kernels/test_kernel.py on the host CANN.
SHAPES = [
    (128, 128, 32, 8, True),
    (128, 64, 32, 2, False),
    (192, 192, 64, 64, True),
    (80, 20, 32, 32, True),
    (96, 96, 4, 2, False),
    (64, 64, 16, 1, False),
    (256, 64, 16, 2, True),
]


SAME_KERNELS = "A3 differs in the number of cores, not in the kernels"


@pytest.fixture
def op(npu):
    from rope_patch.reporting import ledger

    ledger.reset()
    yield npu.ops.rope_patch.rotary_embedding
    assert not ledger.fallbacks(), "the reference answered, not the kernel"


def case(torch, shape, dtype, tokens, strided):
    """positions, query, key, cache on the host; strided tensors are slices of one qkv, as vLLM hands them over."""
    head_size, rotary_dim, heads, kv_heads, _ = shape
    torch.manual_seed(tokens)
    widths = [heads * head_size, kv_heads * head_size]
    qkv = torch.randn(tokens, sum(widths)).to(dtype)
    query, key = qkv.split(widths, -1) if strided else (t.contiguous() for t in qkv.split(widths, -1))
    return torch.randint(0, 97, (tokens,)), query, key, torch.randn(97, rotary_dim).to(dtype)


def on_npu(torch, query, key, strided):
    """The same layout on the device: slices of one tensor, or separate tensors."""
    if not strided:
        return query.npu(), key.npu()
    return torch.cat((query, key), -1).npu().split([query.shape[-1], key.shape[-1]], -1)


def expected(positions, x, cache, shape):
    from rope_patch.operators.reference import rotate
    from rope_patch.operators.rotation import Rotation

    head_size, rotary_dim, _, _, is_neox_style = shape
    rotation = Rotation(head_size, rotary_dim, is_neox_style)
    return rotate(positions, x.unflatten(-1, (-1, head_size)), cache, rotation).flatten(-2)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_op_is_the_reference_bit_for_bit(npu, op, shape, dtype, strided):
    if dtype != "bfloat16" and shape != SHAPES[1] and chips.current().name != "910B3":
        pytest.skip(f"{SAME_KERNELS}: GLM-4's is asked in every type")
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
    npu._dynamo.reset()  # many shapes share one code object, and Dynamo limits its recompilations

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
    op(*inputs, shape[0], shape[1], shape[4])  # compiles and checks before the capture
    graph = npu.npu.NPUGraph()
    with npu.npu.graph(graph):
        q, _ = op(*inputs, shape[0], shape[1], shape[4])
    fresh = npu.randn_like(query)
    inputs[1].copy_(fresh)
    graph.replay()
    assert npu.equal(q.cpu(), expected(positions, fresh, cache, shape))


CHIP = Device(chips.current().vector_cores, chips.current().ub_bytes, powers_of_two=False)


@pytest.mark.skipif(chips.current().name != "910B3", reason=SAME_KERNELS)
@pytest.mark.parametrize("fresh", [False, True], ids=["in place", "fresh"])
@pytest.mark.parametrize("number", [0, -1], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("shape", IN_THE_WILD, ids=[shape.model for shape in IN_THE_WILD])
def test_the_kernel_moves_each_byte_once_and_no_element_by_itself(npu, shape, number, fresh):
    """Two full tiles and a tail, or three tokens by blocks of heads; tiles that begin early move a few tokens twice."""
    from rope_patch.kernels.planning import plans_of
    from tests.host_cann import facts
    from tests.rotations import launch, rotation

    heads = shape.num_heads, shape.num_kv_heads, shape.head_size, shape.rotary_dim

    def call_of(num_tokens):
        return rotation(num_tokens, *heads, is_neox_style=shape.is_neox_style).call()

    plan = plans_of(KERNELS, replace(call_of(1).shape, fresh=fresh), CHIP)[number]
    tokens = 2 * plan.block_tokens + 1
    call = call_of(tokens)
    outputs = [npu.empty(tokens, n * shape.head_size, dtype=npu.bfloat16, device="npu") for n in heads[:2]]
    (found,) = facts.launched(npu, lambda: launch(call, *(outputs if fresh else (None, None)), plan=plan))
    assert found.ub_bytes <= CHIP.tile_bytes
    width = 2 * (shape.head_size if fresh else shape.rotary_dim)
    qkv, times = call.query.tensor, plan.units  # q is where qkv begins
    if plan.splits_tokens:
        rows = tokens * plan.units
    else:  # a tail gathers a row for each token that its tile has room for
        programs, each = plan.grid(tokens, CHIP)
        chunks = (min(each, tokens - program * each) for program in range(programs))
        rows = sum(-(-chunk // plan.block_tokens) * plan.block_tokens for chunk in chunks)
    moved = rows if plan.least_tokens > 1 else tokens  # a last tile that begins early is full
    of_q, of_k = moved * shape.num_heads * width, moved * shape.num_kv_heads * width
    assert found.bytes_moved("load", qkv) == of_q + of_k
    stored = [found.bytes_moved("store", tensor) for tensor in (outputs if fresh else [qkv])]
    assert stored == ([of_q, of_k] if fresh else [of_q + of_k])
    assert found.bytes_moved("load", call.cos_sin_cache) == rows * shape.rotary_dim * 2
    assert found.global_scalars == (tokens * times if plan.block_tokens == 1 else 0), "one token's position, at most"


@pytest.mark.parametrize("num_tokens", [1, 39, 5000])
def test_the_grid_is_at_most_the_chips_vector_cores(npu, num_tokens):
    """As the runtime saw it. Tokens enough for every core keep at least eight of ten at work."""
    from rope_patch.kernels.planning import make_plan
    from tests.host_cann import facts
    from tests.rotations import launch, rotation

    call = rotation(num_tokens, 8, 2, 128, 64).call()
    outputs = [npu.empty(num_tokens, heads * 128, dtype=npu.bfloat16, device="npu") for heads in (8, 2)]
    (found,) = facts.launched(npu, lambda: launch(call, *outputs))
    cores = chips.current().vector_cores
    assert found.grid[1:] == (1, 1)
    assert found.grid[0] <= cores
    plan = make_plan(KERNELS, replace(call.shape, fresh=True), num_tokens, CHIP)
    assert found.grid[0] == plan.grid(num_tokens, CHIP)[0] >= min(num_tokens, cores * 8 // 10)
