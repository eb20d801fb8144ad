"""Graph capture and replay through the classes of the released stacks: a replay gives what eager mode gives.

Run in each environment of ``stack_environment``, on the host CANN; see the README. Full rotary of 0.11 and 0.13 is not
here: the vendor's operators are doubles on the host, which cannot be captured.
"""

from collections import Counter
from typing import Any

import pytest

from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.models import LLAMA3

pytestmark = needs_stack
NUM_TOKENS, HEADS, KV_HEADS, HEAD_SIZE = 5, 8, 2, 128
CASES = {"llama3": ("llama3", LLAMA3, 128), "partial": ("default", {}, 64)}


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def inputs(stack: Stack, seed: int, contiguous: bool) -> tuple[Any, Any, Any]:
    torch = stack.torch
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(NUM_TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_SIZE, generator=generator).bfloat16().npu()
    query, key, _ = qkv.split([HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE], -1)
    positions = torch.randint(1, 128, (NUM_TOKENS,), generator=generator).npu()
    return positions, *((query.clone(), key.clone()) if contiguous else (query, key))


@pytest.mark.parametrize("contiguous", [False, True], ids=["views of qkv", "contiguous"])
@pytest.mark.parametrize("case", CASES)
def test_a_replay_gives_what_eager_mode_gives(stack: Stack, case: str, contiguous: bool) -> None:
    from rope_patch.reporting import ledger

    torch = stack.torch
    kind, parameters, rotary_dim = CASES[case]
    embedding = stack.build(kind, HEAD_SIZE, rotary_dim, **parameters)
    static = inputs(stack, 0, contiguous)
    embedding_is_warm = inputs(stack, 1, contiguous)
    with stack.step(embedding, static[0]):
        embedding(*embedding_is_warm)  # as vLLM's warm-up does, before it captures
        torch.npu.synchronize()
        ledger.reset()
        graph = torch.npu.NPUGraph()
        with torch.npu.graph(graph):
            rotated = embedding(*static)
    assert (ledger.calls(), ledger.fallbacks()) == (Counter(eager=1), Counter())
    for seed in (2, 3):
        fresh = inputs(stack, seed, contiguous)
        for place, value in zip(static, fresh, strict=True):
            place.copy_(value)
        graph.replay()
        torch.npu.synchronize()
        expected = stack.rotate(embedding, *fresh)
        for name, replayed, eager in zip(("query", "key"), rotated, expected, strict=True):
            assert torch.equal(replayed.cpu(), eager.cpu()), name
        assert (rotated[0].data_ptr() == static[1].data_ptr()) == contiguous, "contiguous is rotated in place"
