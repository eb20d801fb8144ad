"""What must not change on the released stacks: logic around the rotation, and classes that we do not serve.

Run in each environment of ``stack_environment``, on the host CANN; see the README. Where it says native, rope_patch is
disabled in the same process, and the results are compared bit by bit.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.models import DEEPSEEK, LLAMA3, YARN

pytestmark = needs_stack
NUM_TOKENS, HEADS, KV_HEADS = 6, 4, 1


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def calls() -> int:
    from rope_patch.reporting import ledger

    return sum(ledger.calls().values())


def heads(stack: Stack, num_heads: int, head_size: int, seed: int = 0, num_tokens: int = NUM_TOKENS) -> Any:
    generator = stack.torch.Generator().manual_seed(seed)
    return stack.torch.randn(num_tokens, num_heads * head_size, generator=generator).bfloat16()


def rotated(embedding: Any, positions: Any, x: Any, is_neox_style: bool | None = None, cache: Any = None) -> Any:
    """The reference's rotation of ``x``, on the host."""
    from rope_patch.operators.reference import rotate
    from rope_patch.operators.rotation import Rotation

    cache = (embedding.cos_sin_cache if cache is None else cache).cpu()
    style = embedding.is_neox_style if is_neox_style is None else is_neox_style
    rotation = Rotation(embedding.head_size, embedding.rotary_dim, style)
    return rotate(positions, x.unflatten(-1, (-1, embedding.head_size)), cache, rotation).flatten(-2)


def close(stack: Stack, actual: Any, wanted: Any) -> None:
    stack.torch.testing.assert_close(actual.cpu().view(wanted.shape), wanted, atol=2**-5, rtol=2**-6)


def both_ways(run: Callable[[], Any]) -> tuple[Any, Any, int]:
    """The results of ``run`` natively and patched, and how many calls the kernel served when patched."""
    import rope_patch

    rope_patch.disable()
    try:
        native = run()
    finally:
        rope_patch.enable()
    before = calls()
    return native, run(), calls() - before


@contextlib.contextmanager
def group_of_two(stack: Stack, sequence_parallel: bool) -> Iterator[mock.Mock]:
    """A group of two ranks, where positions are gathered; the other rank's values are + 3."""
    gather = mock.Mock(side_effect=lambda x, *where: stack.torch.cat((x, x + 3)))
    from vllm_ascend.ops import register_custom_ops

    module = stack.rotary_embedding
    with contextlib.ExitStack() as patched:
        if hasattr(module, "enable_sp"):  # 0.28 and later, perhaps earlier
            group = SimpleNamespace(world_size=2, unique_name="")
            patched.enter_context(mock.patch.object(module, "enable_sp", return_value=sequence_parallel))
            patched.enter_context(mock.patch.object(module, "get_tp_group", return_value=group))
            patched.enter_context(mock.patch.object(stack.torch.ops.vllm, "all_gather", gather))
        else:
            name = "tensor_model_parallel_all_gather"
            patched.enter_context(mock.patch.object(register_custom_ops, name, gather))
        yield gather


@pytest.mark.parametrize("missing", [None, "use_mtp", "is_draft_model", "flash_comm_v1_enabled"])
def test_a_drafts_positions_are_gathered_under_sequence_parallelism_and_only_then(
    stack: Stack, missing: str | None
) -> None:
    if not stack.has_triton_path:
        pytest.skip("this release gathers no positions")
    embedding = stack.build("default", 128, 64)
    switches = {"use_mtp": True, "is_draft_model": True, "flash_comm_v1_enabled": True} | (
        {missing: False} if missing else {}
    )
    embedding.use_mtp = switches.pop("use_mtp")
    share = stack.torch.tensor([5, 1, 9])
    positions = stack.torch.cat((share, share + 3)) if missing is None else stack.torch.arange(NUM_TOKENS)
    query, key = heads(stack, HEADS, 128), heads(stack, KV_HEADS, 128, 1)
    with group_of_two(stack, switches["flash_comm_v1_enabled"]) as gather:
        given = (share if missing is None else positions).npu()
        before = calls()
        q, k = stack.rotate(embedding, given, query.npu(), key.npu(), pad_size=0, **switches)
    assert gather.call_count == (missing is None)
    assert calls() - before == 1
    close(stack, q, rotated(embedding, positions, query))
    close(stack, k, rotated(embedding, positions, key))


@pytest.mark.parametrize(("kind", "parameters"), [("default", {}), ("yarn", YARN)], ids=["default", "yarn"])
def test_the_style_of_the_call_wins_over_the_modules(stack: Stack, kind: str, parameters: dict[str, Any]) -> None:
    embedding = stack.build(kind, 128, 64, **parameters)
    positions, query = stack.torch.arange(NUM_TOKENS), heads(stack, HEADS, 128)
    for override, style in ((None, True), (False, False), (True, True)):
        with stack.step(embedding, positions.npu()):
            q, _ = embedding.forward_oot(positions.npu(), query.npu(), query.npu(), None, override)
        close(stack, q, rotated(embedding, positions, query, style))
    embedding.is_neox_style = False  # as GLM and ERNIE do after the model is built
    q, _ = stack.rotate(embedding, positions.npu(), query.npu(), query.npu())
    close(stack, q, rotated(embedding, positions, query, False))


@pytest.mark.parametrize("is_neox_style", [True, False], ids=["neox", "gpt-j"])
def test_deepseek_keeps_its_scaling_and_its_layout(stack: Stack, is_neox_style: bool) -> None:
    """MLA passes q as heads and k as one head. GPT-J input is returned in NeoX layout, which the attention expects.

    In float16: in bfloat16 0.11's class raises, with us and without.
    """
    dtype = stack.torch.float16
    embedding = stack.build("deepseek_yarn", 64, is_neox_style=is_neox_style, dtype=dtype, **DEEPSEEK)
    assert type(embedding).__name__ == "AscendDeepseekScalingRotaryEmbedding"
    assert embedding.mscale > 1.1
    positions = stack.torch.arange(NUM_TOKENS)
    query, key = heads(stack, HEADS, 64).to(dtype).view(NUM_TOKENS, HEADS, 64), heads(stack, 1, 64, 1).to(dtype)

    def run() -> Any:
        return [x.cpu() for x in stack.rotate(embedding, positions.npu(), query.npu(), key.npu())]

    native, with_us, served = both_ways(run)
    assert served == stack.has_triton_path, "below the operator on the newer stacks, not at all on the older"
    for x, old, new in zip((query, key.view(NUM_TOKENS, 1, 64)), native, with_us, strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        if not is_neox_style:
            x = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        close(stack, new, rotated(embedding, positions, x.flatten(1), True).view(x.shape))
        close(stack, new, old)


def test_mrope_that_the_vendor_serves_rightly_is_untouched(stack: Stack) -> None:
    embedding = stack.build("default", 128, mrope_section=[16, 24, 24])
    assert "MRotaryEmbedding" in type(embedding).__name__
    positions = stack.torch.arange(3 * NUM_TOKENS).view(3, NUM_TOKENS)
    query, key = heads(stack, HEADS, 128), heads(stack, KV_HEADS, 128, 1)

    def run() -> Any:
        with stack.step(embedding, positions[0].npu()):
            return [x.cpu() for x in embedding(positions.npu(), query.npu(), key.npu())]

    native, with_us, served = both_ways(run)
    assert served == 0
    for old, new in zip(native, with_us, strict=True):
        assert stack.torch.equal(old, new)


def test_llama_4s_vision_rotary_whose_forward_takes_no_positions_is_untouched(stack: Stack) -> None:
    module = "vllm.model_executor.layers.rotary_embedding.llama4_vision_rope"
    vision = importlib.import_module(module).Llama4VisionRotaryEmbedding
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(stack.config):
        embedding = vision(64, 32, 16, 10000.0, False, stack.torch.float32)
    query = stack.torch.randn(1, 17, 2, 64, generator=stack.torch.Generator().manual_seed(0))
    native, with_us, served = both_ways(lambda: embedding(query, query.clone()))
    assert served == 0
    assert all(stack.torch.equal(old, new) for old, new in zip(native, with_us, strict=True))


def test_visions_apply_rotary_emb_is_untouched(stack: Stack) -> None:
    ascend = getattr(stack.rotary_embedding, "AscendApplyRotaryEmb", None)
    if ascend is None:
        pytest.skip("this release has no AscendApplyRotaryEmb")
    before = dict(vars(ascend))
    import rope_patch

    rope_patch.disable()
    try:
        assert dict(vars(ascend)) == before
    finally:
        rope_patch.enable()
    assert dict(vars(ascend)) == before


@pytest.mark.parametrize("kind", ["default", "llama3"])
def test_a_draft_model_and_its_target_use_their_own_caches(stack: Stack, kind: str) -> None:
    parameters = LLAMA3 if kind == "llama3" else {}
    target = stack.build(kind, 128, 64, base=10000.0, **parameters)
    draft = stack.build(kind, 128, 64, base=500000.0, in_fresh_worker=False, **parameters)
    positions, query = stack.torch.arange(40, 40 + NUM_TOKENS), heads(stack, HEADS, 128)
    assert not stack.torch.equal(target.cos_sin_cache.cpu(), draft.cos_sin_cache.cpu())
    for embedding in (target, draft, target):
        q, k = stack.rotate(embedding, positions.npu(), query.npu(), query.npu())
        close(stack, q, rotated(embedding, positions, query))
        close(stack, k, rotated(embedding, positions, query))


@pytest.mark.parametrize("kind", ["default", "llama3"])
def test_the_cache_that_a_module_has_now_is_the_one_that_is_read(stack: Stack, kind: str) -> None:
    embedding = stack.build(kind, 128, 64, **(LLAMA3 if kind == "llama3" else {}))
    positions, query = stack.torch.arange(NUM_TOKENS), heads(stack, HEADS, 128)
    original = embedding.cos_sin_cache.cpu()
    changes: dict[str, Callable[[], Any]] = {
        "slept and woke": lambda: embedding.to("cpu").to("npu:0"),
        "reloaded in place": lambda: embedding.cos_sin_cache.copy_(original.flip(0).npu()),
        "replaced": lambda: setattr(embedding, "cos_sin_cache", original.roll(1, 0).npu()),
        "made fp32": lambda: setattr(embedding, "cos_sin_cache", original.float().npu()),
    }
    for what, change in changes.items():
        change()
        cache = embedding.cos_sin_cache.cpu()
        before = calls()
        q, _ = stack.rotate(embedding, positions.npu(), query.npu(), query.npu())
        assert calls() - before == 1, what
        close(stack, q, rotated(embedding, positions, query, cache=cache))


@pytest.mark.parametrize(("kind", "parameters"), [("llama3", LLAMA3), ("default", {}), ("yarn", YARN)])
def test_a_call_without_a_key_is_served_by_us_although_old_releases_raise(
    stack: Stack, kind: str, parameters: dict[str, Any]
) -> None:
    """``AscendRotaryEmbedding`` raises before 0.28, and full rotary is its own on the oldest ones."""
    positions, query = stack.torch.arange(NUM_TOKENS), heads(stack, HEADS, 128)
    embedding = stack.build(kind, 128, **parameters)

    def run() -> Any:
        try:
            q, k = stack.rotate(embedding, positions.npu(), query.npu(), None)
        except AttributeError as error:
            return str(error)
        assert k is None
        return q.cpu()

    native, with_us, served = both_ways(run)
    raises = "'NoneType' object has no attribute 'shape'"
    if kind != "llama3" and not stack.has_triton_path:
        assert (with_us, served) == (native, 0) == (raises, 0)
        return
    assert served == 1
    close(stack, with_us, rotated(embedding, positions, query))
    if kind == "llama3" or stack.takes_no_key:
        close(stack, native, with_us)
    else:
        assert native == raises, "upstream takes calls without a key: targets/ascend_without_key.py is for nothing here"


@pytest.mark.parametrize("gathered", [True, False])
def test_without_a_key_a_drafts_positions_are_gathered_as_with_one(stack: Stack, gathered: bool) -> None:
    """Gemma 4's MTP."""
    if not stack.has_triton_path:
        pytest.skip("this release gathers no positions")
    embedding = stack.build("default", 128, 64)
    embedding.use_mtp = True
    positions, query = stack.torch.tensor([5, 1, 9, 8, 4, 12]), heads(stack, HEADS, 128)
    given = positions[:3] if gathered else positions
    switches = {"is_draft_model": gathered, "flash_comm_v1_enabled": True, "pad_size": 0}
    with group_of_two(stack, True) as gather:
        q, k = stack.rotate(embedding, given.npu(), query.npu(), None, **switches)
    assert (gather.call_count, k) == (gathered, None)
    close(stack, q, rotated(embedding, positions, query))


def test_a_call_without_a_key_that_the_kernel_cannot_take_is_upstreams_and_not_silently_wrong(stack: Stack) -> None:
    if not stack.has_triton_path or stack.takes_no_key:
        pytest.skip("this release serves these calls itself, or is not asked")
    from rope_patch.reporting import ledger

    embedding = stack.build("default", 128)
    positions, query = stack.torch.arange(NUM_TOKENS), heads(stack, HEADS, 128)
    embedding.cos_sin_cache = embedding.cos_sin_cache.half()
    ledger.reset()
    try:
        q, _ = stack.rotate(embedding, positions.npu(), query.npu(), None)
    except Exception:  # its kernel of 0.18, say, may not compile without heads; without us the call raises too
        pass
    else:
        close(stack, q, rotated(embedding, positions, query))
    assert (ledger.calls(), sum(ledger.fallbacks().values())) == ({}, 1)
