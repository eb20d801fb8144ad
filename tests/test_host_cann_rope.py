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


CHIP = Device(chips.current().vector_cores, chips.current().ub_bytes, powers_of_two=False, slices=True)


def facts_of(shape, num_tokens, fresh):
    """The plan for bf16, and the facts of our kernel as ``launch`` would compile it."""
    from rope_patch.kernels.launch import constants
    from rope_patch.kernels.plan import Shape, make_plan
    from rope_patch.kernels.rope import rotary_kernel
    from tests.host_cann import facts

    row = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    heads = shape.num_heads, shape.num_kv_heads, shape.head_size, shape.rotary_dim, shape.is_neox_style
    described = Shape(
        *heads, token_stride=row, itemsize=2, cache_itemsize=2, fresh=fresh, whole_words=not shape.is_neox_style
    )
    plan = make_plan(described, num_tokens, CHIP)
    constexprs = constants(described, plan) | ({} if fresh else {"q_out_ptr": None, "k_out_ptr": None})
    names = [name for name in rotary_kernel.arg_names if name not in constexprs]
    types = {"positions_ptr": "*i64"}
    if plan.pairs == "words":
        types |= dict.fromkeys(("q_ptr", "k_ptr", "q_out_ptr", "k_out_ptr"), "*i32")
    signature = {name: types.get(name, "*bf16" if name.endswith("_ptr") else "i32") for name in names}
    return plan, names, facts.of(rotary_kernel, signature, constexprs)


@pytest.mark.skipif(chips.current().name != "910B3", reason="A3 differs in the number of cores, not in the kernels")
@pytest.mark.parametrize("fresh", [False, True], ids=["in place", "fresh"])
@pytest.mark.parametrize("num_tokens", [1, 128, 8192], ids="{} tokens".format)
@pytest.mark.parametrize("shape", IN_THE_WILD, ids=[shape.model for shape in IN_THE_WILD])
def test_the_kernel_moves_each_byte_once_and_no_element_by_itself(shape, num_tokens, fresh):
    plan, names, found = facts_of(shape, num_tokens, fresh)
    assert found.ub_bytes <= CHIP.tile_bytes
    assert len(found.scalar_accesses) <= (plan.block_tokens == 1), "one token's position, at most"
    assert [t for t in found.transfers if t.bytes is None] == [] or plan.block_tokens > 1, "masks are for a tail"

    def moved(direction, name):
        """Bytes of a full tile, all heads of it, in how many transfers; a tail's are not known before it runs."""
        sizes = [t.bytes for t in found.transfers if (t.direction, names[t.argument]) == (direction, name) and t.bytes]
        return sum(sizes), len(sizes)

    width = (shape.head_size if fresh else shape.rotary_dim) * 2
    at_once = 1 if plan.wide_heads or not shape.is_neox_style else 2
    parts = at_once if plan.wide_heads or shape.rotary_dim == shape.head_size or not fresh else at_once + 1
    for tensor, block in (("q", plan.block_heads), ("k", plan.block_kv_heads)):
        tile = (plan.block_tokens * block * width, parts)
        assert moved("load", f"{tensor}_ptr") == tile
        assert moved("store", f"{tensor}_out_ptr" if fresh else f"{tensor}_ptr") == tile
    # One row, or its two halves, for each token: in the code of the full tile and of the tail; of q's and of k's block.
    copies = 2 if plan.block_tokens > 1 or plan.units else 1
    halves = 1 if plan.wide_rows else 2
    assert moved("load", "cache_ptr") == (copies * shape.rotary_dim * 2, copies * halves)


@pytest.mark.parametrize("num_tokens", [1, 39, 5000])
def test_the_grid_is_at_most_the_chips_vector_cores(npu, num_tokens):
    """As the runtime saw it. Tokens enough for every core keep at least eight of ten at work."""
    from rope_patch.kernels.launch import launch
    from rope_patch.kernels.plan import make_plan
    from tests.host_cann import facts
    from tests.rotations import rotation

    call = rotation(num_tokens, 8, 2, 128, 64).call()
    outputs = [npu.empty(num_tokens, heads * 128, dtype=npu.bfloat16, device="npu") for heads in (8, 2)]
    (found,) = facts.launched(npu, lambda: launch(call, *outputs))
    cores = chips.current().vector_cores
    assert found.grid[1:] == (1, 1)
    assert found.grid[0] <= cores
    plan = make_plan(call.shape(fresh=True), num_tokens, CHIP)
    assert found.grid[0] == plan.grid(num_tokens, CHIP)[0] >= min(num_tokens, cores * 8 // 10)
