"""vLLM's ``triton_mrope`` on the released stacks: its own wrapper and kernel, executed, against its PyTorch.

It is what our kernel replaces. vllm-ascend calls it for interleaved sections
only (its #6042: with chunked ones of Qwen2.5-Omni "the vector core execution is abnormal"); ``test_mrope.py`` of the
host CANN shows what the compiler makes of those. Pipes are checked: this kernel is none that is known to race.

Run in each environment of ``stack_environment``, on the host CANN; see the README.
"""

from typing import Any

import pytest

from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.release import since

pytestmark = needs_stack
NUM_TOKENS, HEADS, KV_HEADS = 5, 6, 2
CASES = {
    "Qwen3.5": (256, 64, [11, 11, 10], True),
    "chunked, by whole blocks": (64, 64, [16, 0, 16], False),
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def close(stack: Stack, actual: Any, wanted: Any) -> None:
    """One rounding to bf16, of what float32 gives."""
    stack.torch.testing.assert_close(actual.cpu().float(), wanted, atol=2**-8, rtol=2**-8)


@pytest.mark.parametrize("case", CASES)
def test_triton_mrope_agrees_with_vllms_pytorch(stack: Stack, case: str) -> None:
    from vllm.model_executor.layers.rotary_embedding import mrope
    from vllm.triton_utils import HAS_TRITON

    if not HAS_TRITON:
        pytest.skip("this release has no Triton on Ascend")
    torch = stack.torch
    head_size, rotary_dim, section, interleaved = CASES[case]
    parameters = {"mrope_section": section, "mrope_interleaved": interleaved}
    embedding = stack.build("default", head_size, rotary_dim, **parameters)
    generator = torch.Generator().manual_seed(0)
    positions = torch.randperm(128, generator=generator)[: 3 * NUM_TOKENS].view(3, NUM_TOKENS)
    query, key = (
        torch.randn(NUM_TOKENS, heads * head_size, generator=generator).bfloat16() for heads in (HEADS, KV_HEADS)
    )

    nine = since("0.27.1rc1")  # arguments, of which vllm-ascend gives eight

    def rotated() -> tuple[Any, Any]:
        if interleaved and hasattr(embedding, "forward_triton") and not nine:  # as a model calls it
            return stack.rotate(embedding, positions.npu(), query.npu(), key.npu())
        cos, sin = embedding.cos_sin_cache[positions.npu()].chunk(2, -1)
        arguments = cos, sin, section, head_size, rotary_dim, interleaved, *([True] if nine else [])
        return mrope.triton_mrope(query.npu(), key.npu(), *arguments)

    results: list[Any] = []
    import rope_patch
    from tests.host_cann import facts

    rope_patch.disable()  # else the class is served by our kernel
    try:
        if nine and interleaved:
            with pytest.raises(TypeError, match="is_neox_style"):
                stack.rotate(embedding, positions.npu(), query.npu(), key.npu())
        (launched,) = facts.launched(torch, lambda: results.extend(rotated()))
    finally:
        rope_patch.enable()
    assert launched.grid == (NUM_TOKENS, 1, 1)
    embedding.cos_sin_cache = embedding.cos_sin_cache.cpu().float()
    wanted = mrope.MRotaryEmbedding.forward_native(embedding, positions, query.float(), key.float())
    for actual, exact in zip(results, wanted, strict=True):
        close(stack, actual, exact)
