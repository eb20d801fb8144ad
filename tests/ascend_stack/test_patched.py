"""rope_patch on the real vLLM and vllm-ascend: the class that the platform selects, called as a model calls it.

Run in an environment of ``stack_environment``, on the host CANN; see the README. q and k are strided views of qkv.
"""

from typing import Any

import pytest

from tests.ascend_stack import other_classes
from tests.ascend_stack.harness import Stack, is_ours, needs_stack, start
from tests.ascend_stack.models import LLAMA3, YARN
from tests.shapes import SHAPES, ModelShape

pytestmark = needs_stack

NUM_TOKENS = 7


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in; its plugin entry point is not run by the harness)

    return start()


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    from rope_patch.reporting import ledger

    ledger.reset()


def rotate(stack: Stack, embedding: Any, shape: ModelShape, dtype: Any, **context: Any) -> tuple[int, int]:
    """Rotate strided views and check the result; return (calls that the kernel served, calls handed back)."""
    from rope_patch.operators.reference import rotate as reference
    from rope_patch.operators.rotation import Rotation
    from rope_patch.reporting import ledger

    torch = stack.torch
    torch.manual_seed(0)
    widths = [shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size]
    qkv = torch.randn(NUM_TOKENS, widths[0] + 2 * widths[1]).to(dtype).npu()
    query, key = qkv[:, : widths[0]], qkv[:, widths[0] : sum(widths)]
    before = query.cpu(), key.cpu()
    positions = torch.randint(0, 128, (NUM_TOKENS,))
    rotated = stack.rotate(embedding, positions.npu(), query, key, **context)
    cache = embedding.cos_sin_cache.cpu()
    for old, new in zip(before, rotated, strict=True):
        heads = old.unflatten(-1, (-1, shape.head_size))
        rotation = Rotation(shape.head_size, shape.rotary_dim, embedding.is_neox_style)
        wanted = reference(positions, heads, cache, rotation).flatten(-2)
        tolerance = 4 * torch.finfo(dtype).eps  # vendor operators and PyTorch's round more than once
        torch.testing.assert_close(new.cpu().view(wanted.shape), wanted, atol=tolerance, rtol=tolerance)
    return sum(ledger.calls().values()), sum(ledger.fallbacks().values())


def served(stack: Stack, shape: ModelShape) -> tuple[int, int]:
    """Expected (calls served, calls handed back): the kernel serves all on newer stacks, partial rotary on older."""
    return (1, 0) if stack.has_triton_path or shape.rotary_dim < shape.head_size else (0, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.model for shape in SHAPES])
def test_the_base_class_is_right_for_every_shape_and_the_counts_say_who_served(stack: Stack, shape: ModelShape) -> None:
    embedding = stack.build("default", shape.head_size, shape.rotary_dim, is_neox_style=shape.is_neox_style)
    assert type(embedding).__name__ == "AscendRotaryEmbedding"
    assert rotate(stack, embedding, shape, stack.torch.bfloat16) == served(stack, shape)


@pytest.mark.parametrize("shape", [ModelShape("partial", 128, 64, 8, 2), ModelShape("full", 96, 96, 8, 2)], ids=str)
def test_float16_too(stack: Stack, shape: ModelShape) -> None:
    """0.11 and 0.13 use an operator of their own for it."""
    dtype = stack.torch.float16
    embedding = stack.build("default", shape.head_size, shape.rotary_dim, dtype=dtype)
    assert rotate(stack, embedding, shape, dtype) == served(stack, shape)


@pytest.mark.parametrize("kind", ["llama3", "linear"])
def test_the_kernel_serves_classes_that_vllm_ascend_does_not_register(stack: Stack, kind: str) -> None:
    parameters = LLAMA3 if kind == "llama3" else {"factor": 2.0}
    embedding = stack.build(kind, 128, dtype=stack.torch.bfloat16, **parameters)
    assert not type(embedding).__name__.startswith("Ascend")
    assert rotate(stack, embedding, ModelShape("Llama-3.1-8B", 128, 128, 32, 8), stack.torch.bfloat16) == (1, 0)


def test_yarn_is_served_like_the_base_class(stack: Stack) -> None:
    shape = ModelShape("gpt-oss", 64, 64, 64, 8)
    embedding = stack.build("yarn", 64, dtype=stack.torch.bfloat16, **YARN)
    assert type(embedding).__name__ == "AscendYaRNRotaryEmbedding"
    assert rotate(stack, embedding, shape, stack.torch.bfloat16) == served(stack, shape)


def test_the_style_may_change_after_construction(stack: Stack) -> None:
    shape = ModelShape("GLM-4-9B", 128, 64, 32, 2)
    embedding = stack.build("default", 128, 64, is_neox_style=True)
    embedding.is_neox_style = False
    assert rotate(stack, embedding, shape, stack.torch.bfloat16) == (1, 0)


def test_two_models_of_one_process_each_use_their_own_cache(stack: Stack) -> None:
    shape = ModelShape("partial", 128, 64, 8, 2)
    target, draft = (stack.build("default", 128, 64, base=base) for base in (10000.0, 500000.0))
    for embedding in (target, draft, target):
        rotate(stack, embedding, shape, stack.torch.bfloat16)


def test_a_cache_that_was_replaced_is_the_one_that_is_read(stack: Stack) -> None:
    shape = ModelShape("partial", 128, 64, 8, 2)
    embedding = stack.build("default", 128, 64)
    rotate(stack, embedding, shape, stack.torch.bfloat16)
    embedding.cos_sin_cache = embedding.cos_sin_cache.cpu().flip(0).npu()
    rotate(stack, embedding, shape, stack.torch.bfloat16)


LENGTHS = {  # the model's length, and positions
    "short": (other_classes.SHORT, [3, 0, 63, 5, 6, 7, 1]),
    "long": (other_classes.LONG, [127, 5, 6, 0, 1, 2, 65]),
    "0.11's last short one": (other_classes.LONG, [3, 0, 64, 5, 6, 7, 1]),
}


@pytest.mark.parametrize("length", LENGTHS)
def test_longrope_is_served_by_its_short_or_its_long_cache(stack: Stack, length: str) -> None:
    """The class's own ``forward``, in float32, is the witness."""
    import rope_patch
    from rope_patch.reporting import ledger

    if length not in ("short", "long") and stack.version != "0.11.0":
        pytest.skip("since then the model's length decides")
    max_model_len, positions = LENGTHS[length]
    embedding = other_classes.longrope(stack, max_model_len)
    torch = stack.torch
    qkv = torch.randn(NUM_TOKENS, 8 * 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    places, on_npu = (slice(4 * 128), slice(4 * 128, 6 * 128)), qkv.npu()
    rotated = embedding(torch.tensor(positions).npu(), *(on_npu[:, place] for place in places))
    assert ledger.calls() == {"eager": 1}
    rope_patch.disable()
    try:
        wanted = embedding.cpu().float()(torch.tensor(positions), *(qkv[:, place].float() for place in places))
    finally:
        rope_patch.enable()
    for new, exact in zip(rotated, wanted, strict=True):
        torch.testing.assert_close(new.cpu().float(), exact, atol=2**-7, rtol=2**-7)


def test_disable_brings_the_identical_originals_back_and_enable_ours(stack: Stack) -> None:
    import rope_patch

    def ours() -> list[bool]:
        places = (
            stack.rotary_embedding.AscendRotaryEmbedding.forward_oot,
            getattr(stack.rotary_embedding, "rope_forward_triton", None),
            embedding._forward_method,
        )
        return [is_ours(place) for place in places if place is not None]

    embedding = stack.build("llama3", 128, **LLAMA3)
    shape = ModelShape("Llama-3.1-8B", 128, 128, 32, 8)
    call_sites = {"ascend_rope_kernel", "ascend_rotary_class", "ascend_without_key"} & set(stack.targets)
    assert sum(ours()) == len(call_sites) + 1, "vllm-ascend's call sites, and the base class"
    for _ in range(2):
        rope_patch.disable()
        try:
            assert not any(ours())
            assert rotate(stack, embedding, shape, stack.torch.bfloat16) == (0, 0)
        finally:
            rope_patch.enable()
        assert sum(ours()) == len(call_sites) + 1
    assert rotate(stack, embedding, shape, stack.torch.bfloat16) == (1, 0)


def test_with_the_parameters_of_september_2026_upstreams_function_serves_where_they_are_set(stack: Stack) -> None:
    """A later signature in place of this release's function, below this release's operator."""
    if not stack.has_triton_path:
        pytest.skip("the older arrangement")
    import rope_patch
    from rope_patch.patching.targets import ascend_rope_kernel
    from rope_patch.settings import parse

    rope_patch.disable()
    module = stack.rotary_embedding
    native = module.rope_forward_triton

    def rope_forward_triton(
        q: Any, k: Any, cos: Any = None, sin: Any = None, cos_sin_cache: Any = None, positions: Any = None,
        rope_dim: int = -1, is_neox_style: bool = True, out_dtype: Any = None, q_out: Any = None, k_out: Any = None,
    ) -> Any:  # fmt: skip
        return out_dtype, q_out, k_out

    module.rope_forward_triton = rope_forward_triton
    replacement = ascend_rope_kernel.replacement(module, parse({}))
    replacement.install()
    try:
        embedding = stack.build("default", 128, 64)
        assert rotate(stack, embedding, ModelShape("partial", 128, 64, 8, 2), stack.torch.bfloat16) == (1, 0)
        q = stack.torch.randn(3, 8, 128).bfloat16().npu()
        given = {"cos_sin_cache": embedding.cos_sin_cache, "positions": stack.torch.arange(3).npu(), "rope_dim": 64}
        assert module.rope_forward_triton(q, q, **given, out_dtype="fp8", k_out="there") == ("fp8", None, "there")
    finally:
        replacement.undo()
        module.rope_forward_triton = native
        rope_patch.enable()
