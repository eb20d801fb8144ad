"""Tokens with three positions on the released stacks: who serves which model, and that the result is right.

The class that the platform selects is called through the method that it is bound to, on ``npu:0``. Witnesses are vLLM's
own ``forward_native`` of that release, in float32, and a reference written here from the models' papers. The engine's
fusion of split, norm and rotation asks for vllm-ascend's class: instances must stay of it.

Run in each environment of ``stack_environment``, on the host CANN; see the README.
"""

import importlib
from typing import Any, NamedTuple

import pytest

from tests.ascend_stack.harness import Stack, needs_stack, start

pytestmark = needs_stack
NUM_TOKENS, HEADS, KV_HEADS = 5, 4, 2


class Model(NamedTuple):
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    section: list[int]
    interleaved: bool = False
    ernie: bool = False


MODELS = {
    "GLM-4.1V": Model(128, 64, False, [8, 12, 12]),
    "GLM-4.5V": Model(128, 64, True, [8, 12, 12]),
    "GLM-OCR": Model(128, 128, False, [16, 24, 24]),
    "Qwen2.5-VL": Model(128, 128, True, [16, 24, 24]),
    "Qwen3-VL": Model(128, 128, True, [24, 20, 20], interleaved=True),
    "Qwen3.5": Model(256, 64, True, [11, 11, 10], interleaved=True),
    "ERNIE-4.5-VL": Model(128, 128, False, [22, 22, 20], ernie=True),
}
LEFT_TO_VENDOR = {"Qwen2.5-VL"}
# Their kernels differ from others' by a constant; they cost compiles, so the newest release is the one that is asked.
NEWEST_ONLY = {"GLM-4.5V": "0.23.0", "Qwen3.5": "0.23.0"}
CALLS = [(name, 3) for name in MODELS] + [("GLM-4.1V", 1), ("Qwen2.5-VL", 1)]


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def build(stack: Stack, model: Model) -> Any:
    if not model.ernie:
        parameters = {"mrope_section": model.section, "mrope_interleaved": model.interleaved}
        numbers = model.head_size, model.rotary_dim
        return stack.build("default", *numbers, is_neox_style=model.is_neox_style, **parameters)
    from vllm.config import set_current_vllm_config

    module = importlib.import_module("vllm.model_executor.layers.rotary_embedding.ernie45_vl_rope")
    with set_current_vllm_config(stack.config):
        return module.Ernie4_5_VLRotaryEmbedding(
            model.head_size, model.rotary_dim, 128, 10000.0, model.is_neox_style, stack.torch.bfloat16,
            mrope_section=model.section,
        ).to("npu:0")  # fmt: skip


def inputs(stack: Stack, model: Model, rows: int) -> tuple[Any, Any, Any]:
    torch = stack.torch
    generator = torch.Generator().manual_seed(0)
    positions = torch.randperm(128, generator=generator)[: 3 * NUM_TOKENS].view(3, NUM_TOKENS)
    heads = (
        torch.randn(NUM_TOKENS, number * model.head_size, generator=generator).bfloat16()
        for number in (HEADS, KV_HEADS)
    )
    return positions[0] if rows == 1 else positions, *heads


def axis_of(model: Model, pair: int) -> int:
    """The axis by whose position a pair of lanes turns."""
    first, second, third = model.section
    if model.ernie:
        return pair % 2 + 1 if pair < first + second else 0
    if model.interleaved:
        return pair % 3 if pair < 3 * (0, second, third)[pair % 3] else 0
    return 0 if pair < first else 1 if pair < first + second else 2


def expected(stack: Stack, model: Model, embedding: Any, positions: Any, x: Any) -> Any:
    """In float64, pair by pair."""
    half = model.rotary_dim // 2
    rows = embedding.cos_sin_cache.cpu().double()[positions if positions.dim() == 2 else positions.expand(3, -1)]
    x, out = (x.double().view(NUM_TOKENS, -1, model.head_size).clone() for _ in range(2))
    for pair in range(half):
        axis = axis_of(model, pair)
        cos, sin = rows[axis, :, pair, None], rows[axis, :, half + pair, None]
        first, second = (pair, half + pair) if model.is_neox_style else (2 * pair, 2 * pair + 1)
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out.flatten(1)


def call(stack: Stack, embedding: Any, positions: Any, query: Any, key: Any) -> list[Any]:
    """As a model calls it: q and k are views of one qkv."""
    width, kv_width = query.shape[1], key.shape[1]
    qkv = stack.torch.cat((query, key, key), -1).npu()
    with stack.step(embedding, positions.flatten()[:NUM_TOKENS].npu()):
        rotated = embedding(positions.npu(), qkv[:, :width], qkv[:, width : width + kv_width])
    return [x.cpu() for x in rotated]


def close(stack: Stack, actual: Any, wanted: Any) -> None:
    """One rounding to bf16, of results about as large as what is rotated."""
    stack.torch.testing.assert_close(actual.double(), wanted.double(), atol=2**-8, rtol=2**-8)


@pytest.mark.parametrize(("name", "rows"), CALLS, ids=lambda value: {3: "three positions", 1: "one"}.get(value, value))
def test_the_selected_class_rotates_rightly_and_the_counters_say_who_served(stack: Stack, name: str, rows: int) -> None:
    import rope_patch
    from rope_patch.patching.targets.ascend_mrope import LEFT_TO_VENDOR as REASON
    from rope_patch.reporting import ledger

    if NEWEST_ONLY.get(name, stack.version) != stack.version:
        pytest.skip("the newest release is asked")
    model = MODELS[name]
    embedding = build(stack, model)
    kind = stack.rotary_embedding.AscendMRotaryEmbedding
    assert isinstance(embedding, kind) != model.ernie, "vllm-ascend's fusion asks for this class"
    assert embedding._forward_method.__name__ == "forward_oot"
    positions, query, key = inputs(stack, model, rows)
    ledger.reset()
    rotated = call(stack, embedding, positions, query, key)
    if name in LEFT_TO_VENDOR:
        assert not ledger.calls()
        assert ledger.fallbacks() == {REASON: 1}
    else:
        assert ledger.calls() == {"eager": 1}, rope_patch.status()
    native = type(embedding).forward_native
    embedding.cos_sin_cache = embedding.cos_sin_cache.cpu().float()
    of_vllm = native(embedding, positions, query.float(), key.float())
    for after, before, theirs in zip(rotated, (query, key), of_vllm, strict=True):
        close(stack, after, expected(stack, model, embedding, positions, before))
        close(stack, after, theirs)


def test_three_equal_rows_are_the_text_only_request(stack: Stack) -> None:
    model = MODELS["GLM-4.1V"]
    embedding = build(stack, model)
    positions, query, key = inputs(stack, model, 1)
    of_text = call(stack, embedding, positions.expand(3, -1).contiguous(), query, key)
    of_one = call(stack, embedding, positions, query, key)
    assert all(stack.torch.equal(a, b) for a, b in zip(of_text, of_one, strict=True))


def test_without_us_glm_ocr_is_silently_wrong(stack: Stack) -> None:
    """vllm-ascend #12765. Fails where upstream heeds the style: then ``targets/ascend_mrope.py`` has a reason less."""
    import rope_patch

    model = MODELS["GLM-OCR"]
    positions, query, key = inputs(stack, model, 3)
    rope_patch.disable()
    try:
        embedding = build(stack, model)
        rotated = call(stack, embedding, positions, query, key)
    finally:
        rope_patch.enable()
    wanted = expected(stack, model, embedding, positions, query)
    off = (rotated[0].double() - wanted).abs().max()
    assert off > 0.5, f"GLM-OCR is right without us now (off by {off}): vllm-ascend #12765 was fixed"
    as_neox = model._replace(is_neox_style=True)
    close(stack, rotated[0], expected(stack, as_neox, embedding, positions, query))


def test_all_takes_what_the_vendor_serves(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    import rope_patch
    from rope_patch.patching.targets import ascend_mrope
    from rope_patch.reporting import ledger
    from rope_patch.settings import VARIABLE, parse

    model = MODELS["Qwen2.5-VL"]
    rope_patch.disable()
    undo = ascend_mrope.install(stack.rotary_embedding, parse({VARIABLE: "all"}))
    try:
        embedding = build(stack, model)
        positions, query, key = inputs(stack, model, 3)
        ledger.reset()
        rotated = call(stack, embedding, positions, query, key)
    finally:
        undo()
        rope_patch.enable()
    assert ledger.calls() == {"eager": 1}
    close(stack, rotated[0], expected(stack, model, embedding, positions, query))


def test_disabled_a_live_instance_is_native_again_and_no_attribute_is_left(stack: Stack) -> None:
    import rope_patch
    from tests.ascend_stack.harness import is_ours

    embedding = build(stack, MODELS["GLM-4.1V"])
    ernie = build(stack, MODELS["ERNIE-4.5-VL"])
    assert is_ours(embedding._forward_method)
    assert is_ours(ernie._forward_method)
    rope_patch.disable()
    try:
        assert not is_ours(embedding._forward_method)
        assert not is_ours(ernie._forward_method)
        for cls in (*type(embedding).__mro__, *type(ernie).__mro__):
            assert not is_ours(vars(cls).get("forward_oot"))
    finally:
        rope_patch.enable()
    assert is_ours(embedding._forward_method)
    assert is_ours(ernie._forward_method)
