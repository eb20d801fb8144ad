"""``torch.ops.rope_patch.rotary_embedding``: it is functional and traceable, and names what is wrong with bad input."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the op needs torch")
pytest.importorskip("triton", reason="the op needs triton")

from rope_patch.operators import contract, dispatch, op  # noqa: E402
from rope_patch.operators.arguments import axes_of  # noqa: E402
from rope_patch.operators.rotation import Rotation  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from rope_patch.serving import first_use  # noqa: E402
from tests.rotations import Case, assert_rotated, rotation  # noqa: E402


def arguments(case: Case) -> tuple[Any, ...]:
    return case.positions, case.query, case.key, case.cache, *(case.asked if case.axes else case.asked[:3])


def asked(case: Case) -> tuple[Any, ...]:
    return case.positions, case.query, case.key, case.cache, case.asked


@pytest.fixture(params=[False, True], ids=["", "CI"], autouse=True)
def continuous_integration(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch >= 2.13 raises for an op that returns its inputs if CI was set when it was imported, else only warns."""
    if hasattr(torch._functorch.config, "error_on_custom_op_aliasing"):
        monkeypatch.setattr(torch._functorch.config, "error_on_custom_op_aliasing", request.param)
    torch._dynamo.reset()


CASES = {
    "neox": rotation(5, 4, 2, 64, 64),
    "gpt-j partial": rotation(5, 4, 2, 64, 40, is_neox_style=False),
    "contiguous": rotation(5, 4, 2, 64, 64, strided=False),
    "no key": rotation(5, 4, 0, 64, 64),
    "one token": rotation(1, 4, 2, 64, 64),
    "three positions": rotation(5, 4, 2, 64, 64, axes=axes_of((8, 12, 12), "chunked", 64)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_torchs_own_checks_of_an_op_pass(case: Case) -> None:
    torch.library.opcheck(op.rotary_embedding, arguments(case))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_rotates_into_fresh_contiguous_tensors_and_touches_no_input(case: Case) -> None:
    before = case.storage.clone(), case.query.clone()
    query, key = op.rotary_embedding(*arguments(case))
    assert_rotated(case, case.query, query)
    if case.key is None:
        assert key.numel() == 0
    else:
        assert_rotated(case, case.key, key)
        assert key.is_contiguous()
    assert query.is_contiguous()
    assert torch.equal(case.storage, before[0])
    assert torch.equal(case.query, before[1])
    inputs = {t.untyped_storage().data_ptr() for t in arguments(case) if isinstance(t, torch.Tensor)}
    assert not inputs & {query.untyped_storage().data_ptr(), key.untyped_storage().data_ptr()}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fullgraph_compilation_has_the_op_in_its_graph(case: Case, backend: str) -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(contract.serve, fullgraph=True, dynamic=True, backend=keep)
    query, _ = compiled(*asked(case))
    assert_rotated(case, case.query, query)
    (graph,) = graphs
    called = [node for node in graph.graph.nodes if node.target is op.rotary_embedding]
    assert len(called) == 1


def test_the_graph_of_an_aot_compiler_holds_the_op_and_no_clone() -> None:
    """With ``mutates_args`` there would be ``auto_functionalized``, with a copy of each tensor."""
    from torch._dynamo.backends.common import aot_autograd

    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    case = CASES["neox"]
    with torch.no_grad():
        torch.compile(contract.serve, fullgraph=True, backend=aot_autograd(fw_compiler=keep))(*asked(case))
    targets = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert "rope_patch.rotary_embedding.default" in targets
    assert not [target for target in targets if "functionalized" in target or "clone" in target]


def test_one_graph_serves_any_number_of_tokens() -> None:
    compiled = torch.compile(contract.serve, fullgraph=True, dynamic=True, backend="eager")
    torch._dynamo.utils.counters.clear()
    for num_tokens in (5, 2, 9, 33):
        case = rotation(num_tokens, 4, 2, 64, 64, seed=num_tokens)
        assert_rotated(case, case.query, compiled(*asked(case))[0])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_refused_call_is_traced_natively_and_counted_once() -> None:
    ledger.reset()

    def call(*args: Any) -> Any:
        rotated = contract.serve(*args)
        return "original" if rotated is None else rotated

    case = rotation(5, 4, 2, 64, 64)
    changed = (case.positions, case.query, case.key, case.cache.half(), Rotation(64, 64, True))
    assert torch.compile(call, fullgraph=True, backend="eager")(*changed) == "original"
    assert sum(ledger.fallbacks().values()) == 1


def test_strides_that_the_kernel_does_not_take_are_copied_first() -> None:
    case = rotation(5, 4, 2, 64, 64)
    expected = case.query.clone()
    case.query = torch.repeat_interleave(case.query, 2, dim=1)[:, ::2]
    assert case.query.stride(1) == 2
    assert_rotated(case, expected, op.rotary_embedding(*arguments(case))[0])


def test_a_kernel_that_is_not_trusted_is_replaced_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch.forget()
    monkeypatch.setattr(first_use, "trusted", lambda *args: "as the test says")
    ledger.reset()
    for case in CASES.values():
        query, key = op.rotary_embedding(*arguments(case))
        assert_rotated(case, case.query, query)
        if case.key is not None:
            assert_rotated(case, case.key, key)
    assert ledger.fallbacks() == {"as the test says": len(CASES)}


WRONG = {
    "query dtype": ({"query": torch.zeros(5, 256, dtype=torch.float64)}, TypeError, "torch.float64[5, 256]"),
    "key dtype": ({"key": torch.zeros(5, 128, dtype=torch.float16)}, TypeError, "torch.float16[5, 128]"),
    "positions dtype": ({"positions": torch.zeros(5)}, TypeError, "torch.float32[5]"),
    "cache dtype": ({"cos_sin_cache": torch.zeros(97, 64, dtype=torch.float16)}, TypeError, "float16[97, 64]"),
    "odd rotary_dim": ({"rotary_dim": 63}, ValueError, "rotary_dim=63"),
    "no head_size": ({"head_size": 0}, ValueError, "head_size=0"),
    "no rotary_dim": ({"rotary_dim": 0}, ValueError, "rotary_dim=0"),
    "rotary_dim over head_size": ({"head_size": 32}, ValueError, "head_size=32"),
    "narrow cache": ({"cos_sin_cache": torch.zeros(97, 62, dtype=torch.bfloat16)}, ValueError, "[97, 62]"),
    "tokens": ({"positions": torch.zeros(4, dtype=torch.int64)}, ValueError, "torch.int64[4]"),
    "axes": ({"axes": "th"}, ValueError, "axes=th"),
    "positions of axes": ({"axes": "t" * 32}, ValueError, "torch.int64[5]"),
    "width": ({"query": torch.zeros(5, 250, dtype=torch.bfloat16)}, ValueError, "[5, 250]"),
}


@pytest.mark.parametrize(("changed", "error", "named"), WRONG.values(), ids=WRONG)
def test_bad_input_is_named_and_nothing_is_touched(changed: dict[str, Any], error: Any, named: str) -> None:
    case = rotation(5, 4, 2, 64, 64)
    before = case.storage.clone()
    given = {
        "positions": case.positions, "query": case.query, "key": case.key, "cos_sin_cache": case.cache,
        "head_size": 64, "rotary_dim": 64, "is_neox_style": True,
    }  # fmt: skip
    with pytest.raises(error, match="expected") as caught:
        op.rotary_embedding(**given | changed)
    assert named in str(caught.value)
    assert torch.equal(case.storage, before)
