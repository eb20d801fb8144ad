"""Three positions a token in graphs: in those that vllm-ascend's compiler makes, and captured and replayed.

Positions are, as in vLLM's model runner, the first tokens of a buffer of three longer rows. What a graph gives for
other positions is compared with eager mode, bit for bit.

Run in each environment of ``stack_environment``, on the host CANN; see the README.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ascend_stack import graphs
from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.multimodal import HEADS, KV_HEADS, MAX_POSITION, MODELS, Model, build

pytestmark = needs_stack
OUR_OP = "rope_patch.rotary_embedding.default"
NAMES = ["GLM-4.1V", "ERNIE-4.5-VL"]  # one that vllm-ascend registers, and one that it does not
CANNOT_RUN_HERE = ("0.13.0", "npugraph_ex")  # it asks for what the host CANN lacks: see test_graphs.py


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    import rope_patch  # noqa: F401  (the way in)

    with contextlib.chdir(tmp_path_factory.mktemp("graphs")):  # torchair leaves files in the current folder
        yield start()


def inputs(stack: Stack, model: Model, num_tokens: int, seed: int) -> tuple[Any, Any]:
    """Positions and qkv on ``npu:0``."""
    torch = stack.torch
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.randint(0, MAX_POSITION, (3, num_tokens + 3), generator=generator).npu()
    qkv = torch.randn(num_tokens, (HEADS + 2 * KV_HEADS) * model.head_size, generator=generator)
    return buffer[:, :num_tokens], qkv.bfloat16().npu()


def rotation(embedding: Any, model: Model) -> Any:
    def run(positions: Any, qkv: Any) -> Any:
        query, key, _ = qkv.split([heads * model.head_size for heads in (HEADS, KV_HEADS, KV_HEADS)], -1)
        return embedding(positions, query, key)

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_graph_gives_what_eager_mode_gives(stack: Stack, name: str) -> None:
    from rope_patch.reporting import ledger

    torch, model = stack.torch, MODELS[name]
    embedding, passes = build(stack, model), graphs.Passes()
    run = rotation(embedding, model)
    for path, compiler in graphs.compilers(stack, passes).items():
        if (stack.version, path) == CANNOT_RUN_HERE:
            continue
        torch._dynamo.reset()
        passes.seen = graphs.Observation()
        compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=compiler)
        ledger.reset()
        for num_tokens, seed in ((5, 0), (5, 1), (7, 2)):
            positions, qkv = inputs(stack, model, num_tokens, seed)
            with stack.step(embedding, positions[0]), torch.no_grad():
                rotated, expected = compiled(positions, qkv), run(positions, qkv)
            for of_graph, eager in zip(rotated, expected, strict=True):
                assert torch.equal(of_graph.cpu(), eager.cpu()), (path, num_tokens)
        assert (ledger.calls(), ledger.fallbacks()) == (Counter(op=3, eager=3, traced=1), Counter()), path
        if path == "npugraph_ex":  # which is compiled without vllm-ascend's passes
            assert "ops" not in passes.seen
            continue
        assert passes.seen["ops"][OUR_OP] == 1, (path, passes.seen)
        assert not [op for op in passes.seen["ops"] if "auto_functionalized" in op or "clone" in op], path


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_with_other_positions_gives_what_eager_mode_gives(stack: Stack, name: str) -> None:
    from rope_patch.reporting import ledger

    torch, model = stack.torch, MODELS[name]
    embedding = build(stack, model)
    run = rotation(embedding, model)
    static = inputs(stack, model, 5, 0)
    with stack.step(embedding, static[0][0]):
        run(*inputs(stack, model, 5, 1))  # as vLLM's warm-up does, before it captures
        torch.npu.synchronize()
        ledger.reset()
        graph = torch.npu.NPUGraph()
        with torch.npu.graph(graph):
            rotated = run(*static)
    assert (ledger.calls(), ledger.fallbacks()) == (Counter(eager=1), Counter())
    for seed in (2, 3):
        fresh = inputs(stack, model, 5, seed)
        for place, value in zip(static, fresh, strict=True):
            place.copy_(value)
        graph.replay()
        torch.npu.synchronize()
        with stack.step(embedding, fresh[0][0]):
            expected = run(*fresh)
        for replayed, eager in zip(rotated, expected, strict=True):
            assert torch.equal(replayed.cpu(), eager.cpu())
