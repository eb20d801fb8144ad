"""The targets for vllm-ascend on doubles of its call sites: what the kernel takes, what stays native, what is refused.

``tests/ascend_stack`` tests them on the real packages.
"""

import timeit
import types
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="rotations need torch")
pytest.importorskip("triton", reason="rotations need triton")

from rope_patch.operators import contract  # noqa: E402
from rope_patch.patching.targets import (  # noqa: E402
    NotApplicable,
    ascend_rope_kernel,
    ascend_rotary_class,
    ascend_without_key,
)
from rope_patch.reporting import ledger  # noqa: E402
from rope_patch.settings import VARIABLE, Settings, parse  # noqa: E402
from tests.rotations import Case, assert_rotated, rotation  # noqa: E402

ON, ALL = parse({VARIABLE: "1"}), parse({VARIABLE: "all"})
OF_SEPTEMBER = ", out_dtype=None, q_out=None, k_out=None"


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    ledger.reset()


def newer(parameters: str = "", key: Any = "torch.Tensor") -> ModuleType:
    """The module as in 0.15 and newer; the last of ``rope_forward_triton``'s parameters may be added, and ``key`` be
    what the class says of its key."""
    module = ModuleType("vllm_ascend.ops.rotary_embedding")
    exec(
        f"""def rope_forward_triton(
        q, k, cos=None, sin=None, cos_sin_cache=None, positions=None, rope_dim=-1, is_neox_style=True{parameters}
    ):
        return "upstream", {{name: value for name, value in locals().items() if value is not None}}""",
        vars(module),
    )

    def rope_forward_oot(case: Case) -> Any:  # looks up the global when it is called, as upstream does
        q, k = (t.view(case.positions.numel(), -1, case.head_size) for t in (case.query, case.key))
        return module.rope_forward_triton(
            q, k, cos_sin_cache=case.cache, positions=case.positions, rope_dim=case.rotary_dim,
            is_neox_style=case.is_neox_style,
        )  # fmt: skip

    class AscendRotaryEmbedding(SimpleNamespace):
        def forward_oot(
            self, positions: Any, query: Any, key: Any, offsets: Any = None, is_neox_style_override: Any = None
        ) -> Any:
            case = SimpleNamespace(**vars(self), positions=positions + self.gathered, query=query, key=key)
            return module.rope_forward_oot(case)

    class AscendYaRNRotaryEmbedding(SimpleNamespace):
        def forward_oot(self, positions: Any, query: Any, key: Any) -> Any:
            return module.AscendRotaryEmbedding.forward_oot(self, positions, query, key)

    AscendRotaryEmbedding.forward_oot.__annotations__["key"] = key
    module.rope_forward_oot = rope_forward_oot
    module.AscendRotaryEmbedding, module.AscendYaRNRotaryEmbedding = AscendRotaryEmbedding, AscendYaRNRotaryEmbedding
    return module


def older() -> ModuleType:
    """The module as in 0.11 and 0.13."""
    module = ModuleType("vllm_ascend.ops.rotary_embedding")

    def _rope_forward_oot(
        self: Any, positions: Any, query: Any, key: Any, is_neox_style: bool, offsets: Any = None
    ) -> Any:
        return "upstream", is_neox_style

    class AscendRotaryEmbedding(SimpleNamespace):
        def forward_oot(
            self, positions: Any, query: Any, key: Any, offsets: Any = None, is_neox_style_override: Any = None
        ) -> Any:
            style = self.is_neox_style if is_neox_style_override is None else is_neox_style_override
            return module._rope_forward_oot(self, positions, query, key, style, offsets)

    class AscendYaRNRotaryEmbedding(SimpleNamespace):
        def forward_oot(self, *arguments: Any) -> Any:
            return module.AscendRotaryEmbedding.forward_oot(self, *arguments)

    module._rope_forward_oot = _rope_forward_oot
    module.AscendRotaryEmbedding, module.AscendYaRNRotaryEmbedding = AscendRotaryEmbedding, AscendYaRNRotaryEmbedding
    return module


def embedding(module: ModuleType, case: Case, name: str = "AscendRotaryEmbedding") -> Any:
    return getattr(module, name)(
        head_size=case.head_size, rotary_dim=case.rotary_dim, is_neox_style=case.is_neox_style,
        cos_sin_cache=case.cache,
    )  # fmt: skip


@pytest.mark.parametrize("strided", [True, False], ids=["strided", "contiguous"])
@pytest.mark.parametrize("rotary_dim", [20, 64, 96])
def test_in_newer_releases_our_kernel_serves_with_upstreams_contract(rotary_dim: int, strided: bool) -> None:
    module, case = newer(), rotation(5, 4, 2, 96, rotary_dim, strided=strided)
    before = case.query.clone(), case.key.clone()
    ascend_rope_kernel.replacement(module, ON).install()
    q, k = module.rope_forward_oot(case)
    assert ledger.calls() == {"eager": 1}
    assert_rotated(case, before[0], q)
    assert_rotated(case, before[1], k)
    assert q.is_contiguous()
    assert (q.data_ptr() == case.query.data_ptr()) == (not strided), "contiguous in place, strided fresh"


def test_in_newer_releases_calls_with_cos_and_sin_or_that_the_kernel_cannot_take_are_upstreams() -> None:
    module, case = newer(), rotation(5, 4, 2, 64, 64)
    ascend_rope_kernel.replacement(module, ON).install()
    given = {"q": case.query, "k": case.key, "cos": "cos", "sin": "sin", "rope_dim": 7}
    assert module.rope_forward_triton(**given) == ("upstream", given | {"is_neox_style": True})
    case.cache = case.cache.half()
    assert module.rope_forward_oot(case)[0] == "upstream"
    assert sum(ledger.fallbacks().values()) == 2, "both are counted"


@pytest.mark.parametrize("name", ["AscendRotaryEmbedding", "AscendYaRNRotaryEmbedding"])
def test_in_newer_releases_a_call_without_a_key_rotates_the_query_by_the_positions_that_upstream_gathers(
    name: str,
) -> None:
    module, case = newer(), rotation(5, 4, 2, 64, 40)
    for target in (ascend_rope_kernel, ascend_without_key):
        target.replacement(module, ON).install()
    instance = getattr(module, name)(
        cache=case.cache, head_size=64, rotary_dim=40, is_neox_style=case.is_neox_style, gathered=1
    )
    q, k = instance.forward_oot(case.positions - 1, case.query, None)
    assert k is None
    assert_rotated(case, case.query, q)
    assert (ledger.calls(), ledger.fallbacks()) == ({"eager": 1}, {})
    q, k = instance.forward_oot(case.positions - 1, case.query, case.key)
    assert_rotated(case, case.query, q)
    assert_rotated(case, case.key, k)


def test_a_call_without_a_key_that_the_kernel_cannot_take_is_upstreams_and_counted() -> None:
    module, case = newer(), rotation(5, 4, 2, 64, 40)
    for target in (ascend_rope_kernel, ascend_without_key):
        target.replacement(module, ON).install()
    instance = module.AscendRotaryEmbedding(
        cache=case.cache.half(), head_size=64, rotary_dim=40, is_neox_style=True, gathered=0
    )
    assert instance.forward_oot(case.positions, case.query, None) == ("upstream", None)
    assert sum(ledger.fallbacks().values()) == 1


@pytest.mark.parametrize(
    "module", [newer(key="torch.Tensor | None"), newer(key=torch.Tensor | None), newer(", scale=None"), older()]
)
def test_where_upstream_takes_calls_without_a_key_or_looks_different_its_class_is_left(module: ModuleType) -> None:
    before = dict(vars(module.AscendRotaryEmbedding))
    with pytest.raises(NotApplicable):
        ascend_without_key.replacement(module, ON).install()
    assert dict(vars(module.AscendRotaryEmbedding)) == before


def test_parameters_of_september_2026_are_served_at_their_defaults_and_else_are_upstreams_as_given() -> None:
    module, case = newer(OF_SEPTEMBER), rotation(5, 4, 2, 64, 40)
    ascend_rope_kernel.replacement(module, ON).install()
    q, k = module.rope_forward_oot(case)
    assert_rotated(case, case.query, q)
    assert_rotated(case, case.key, k)
    given = {"q": q, "k": k, "cos_sin_cache": case.cache, "positions": case.positions, "rope_dim": 40}
    assert module.rope_forward_triton(**given, out_dtype=None, q_out=None)[0] is q
    assert ledger.calls() == {"eager": 2}
    for asked in ({"out_dtype": "fp8"}, {"out_dtype": "fp8", "q_out": "here", "k_out": "there"}, {"k_out": "there"}):
        assert module.rope_forward_triton(**given, **asked) == ("upstream", given | {"is_neox_style": True} | asked)
    by_place = q, k, None, None, case.cache, case.positions, 40, False, None, "here"
    assert module.rope_forward_triton(*by_place)[1] == given | {"is_neox_style": False, "q_out": "here"}
    assert ledger.calls() == {"eager": 2}
    assert ledger.fallbacks() == {ascend_rope_kernel.NOT_PLAIN: 4}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (", scale=None", "scale is not known"),
        (OF_SEPTEMBER + ", *, scale=None", "scale is not known"),
        (", out_dtype=None, q_out=None", "k_out is missing"),
        (", q_out=None, out_dtype=None, k_out=None", "in another order"),
        (", out_dtype='fp8', q_out=None, k_out=None", "out_dtype is 'fp8' by default, expected None"),
    ],
)
def test_an_unknown_signature_stays_native_and_the_parameter_is_named(parameters: str, named: str) -> None:
    module = newer(parameters)
    before = dict(vars(module))
    with pytest.raises(NotApplicable, match=f"rope_forward_triton.*{named}"):
        ascend_rope_kernel.replacement(module, ON).install()
    assert vars(module) == before, "nothing is touched"


@pytest.mark.parametrize("name", ["AscendRotaryEmbedding", "AscendYaRNRotaryEmbedding"])
def test_in_older_releases_the_kernel_serves_partial_rotary_of_the_class_and_of_yarn(name: str) -> None:
    module, case = older(), rotation(5, 4, 2, 64, 40)
    ascend_rotary_class.replacement(module, ON).install()
    q, k = embedding(module, case, name).forward_oot(case.positions, case.query, case.key)
    assert_rotated(case, case.query, q)
    assert_rotated(case, case.key, k)


def test_the_style_given_in_the_call_wins_over_the_modules() -> None:
    module, case = older(), rotation(5, 4, 2, 64, 40, is_neox_style=True)
    ascend_rotary_class.replacement(module, ON).install()
    instance = embedding(module, case)
    case.is_neox_style = False
    assert_rotated(case, case.query, instance.forward_oot(case.positions, case.query, case.key, None, False)[0])
    instance.is_neox_style = False  # as GLM does after construction
    assert_rotated(case, case.query, instance.forward_oot(case.positions, case.query, case.key)[0])


@pytest.mark.parametrize(
    ("settings", "head_size", "is_neox_style", "ours"),
    [(ON, 64, True, False), (ALL, 64, True, True), (ALL, 128, False, True), (ALL, 128, True, False)],
    ids=["vendor's by default", "ours under all", "no fusion matches GPT-J", "a fusion matches NeoX 128/128"],
)
def test_full_rotary_stays_native_unless_all_is_set_and_always_where_a_fusion_matches(
    settings: Settings, head_size: int, is_neox_style: bool, ours: bool
) -> None:
    module, case = older(), rotation(5, 4, 2, head_size, head_size, is_neox_style=is_neox_style)
    ascend_rotary_class.replacement(module, settings).install()
    result = embedding(module, case).forward_oot(case.positions, case.query, case.key)
    if ours:
        assert_rotated(case, case.query, result[0])
    else:
        assert result == ("upstream", is_neox_style)


def test_calls_with_offsets_go_to_the_original() -> None:
    module, case = older(), rotation(5, 4, 2, 64, 40)
    ascend_rotary_class.replacement(module, ON).install()
    assert embedding(module, case).forward_oot(case.positions, case.query, case.key, "offsets")[0] == "upstream"
    assert ledger.fallbacks() == {ascend_rotary_class.OFFSETS: 1}


def test_each_release_is_recognised_by_what_its_module_has_and_an_unknown_one_is_left() -> None:
    with pytest.raises(NotApplicable, match="there is no rope_forward_triton"):
        ascend_rope_kernel.replacement(older(), ON).install()
    with pytest.raises(NotApplicable, match="which ascend_rope_kernel is for"):
        ascend_rotary_class.replacement(newer(), ON).install()
    for replacement, module, name in (
        (ascend_rope_kernel.replacement, newer(), "rope_forward_triton"),
        (ascend_rotary_class.replacement, older(), "_rope_forward_oot"),
    ):
        setattr(module, name, lambda moved: None)
        before = dict(vars(module))
        with pytest.raises(NotApplicable, match=r"moved is not known, .* is missing"):
            replacement(module, ON).install()
        assert vars(module) == before, "nothing is touched"
    with pytest.raises(NotApplicable, match=r"no AscendRotaryEmbedding\.forward_oot"):
        ascend_rotary_class.replacement(ModuleType("empty"), ON).install()


def test_undo_puts_the_identical_objects_back() -> None:
    for replacement, module, holder, name in (
        (ascend_rope_kernel.replacement, newer(), lambda m: m, "rope_forward_triton"),
        (ascend_rotary_class.replacement, older(), lambda m: m.AscendRotaryEmbedding, "forward_oot"),
    ):
        before = vars(holder(module))[name]
        made = replacement(module, ON)
        made.install()
        assert vars(holder(module))[name] is not before
        made.undo()
        assert vars(holder(module))[name] is before


def test_two_models_each_use_their_own_cache() -> None:
    module, draft, target = newer(), rotation(5, 4, 2, 64, 40, seed=1), rotation(5, 4, 2, 64, 40, seed=2)
    ascend_rope_kernel.replacement(module, ON).install()
    for case in (draft, target, draft):
        assert_rotated(case, case.query, module.rope_forward_oot(case)[0])


def test_when_compiled_the_older_class_has_our_op_in_its_graph() -> None:
    module, case = older(), rotation(5, 4, 2, 64, 40)
    ascend_rotary_class.replacement(module, ON).install()
    graphs = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    instance = embedding(module, case)
    compiled = torch.compile(instance.forward_oot, fullgraph=True, backend=keep)
    assert_rotated(case, case.query, compiled(case.positions, case.query, case.key)[0])
    assert sum(node.target is contract.op.rotary_embedding for node in graphs[0].graph.nodes) == 1


def test_when_compiled_full_rotary_is_counted_once_as_left_to_the_vendor() -> None:
    module, case = older(), rotation(5, 4, 2, 64, 64)
    ascend_rotary_class.replacement(module, ON).install()
    compiled = torch.compile(embedding(module, case).forward_oot, fullgraph=True, backend="eager")
    for _ in range(2):
        assert compiled(case.positions, case.query, case.key) == ("upstream", True)
    assert ledger.fallbacks() == {ascend_rotary_class.LEFT_TO_VENDOR: 1}


def test_switched_off_whoever_holds_our_function_gets_the_original_at_every_target() -> None:
    case, new, old = rotation(5, 4, 2, 64, 40), newer(), older()
    given = {"cos_sin_cache": case.cache, "positions": case.positions, "rope_dim": 40}
    instance = embedding(old, case)
    for target, module, call in (
        (ascend_rope_kernel, new, lambda ours: ours(case.query, case.key, **given)),
        (ascend_rotary_class, old, lambda ours: ours(instance, case.positions, case.query, case.key)),
    ):
        made = target.replacement(module, ON)
        made.install()
        made.undo()
        ledger.reset()
        assert call(made.ours)[0] == "upstream"
        assert not ledger.calls()
        assert not ledger.fallbacks(), "a call that rope_patch does not look at is not counted"


def test_switching_adds_nothing_to_a_graph_or_its_guards_and_what_was_traced_stays() -> None:
    module, case, graphs, guarded = older(), rotation(5, 4, 2, 64, 40), [], []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    def guards(entries: Any) -> Any:
        guarded.extend((entry.name, entry.guard_type) for entry in entries)
        return [True for _ in entries]

    made = ascend_rotary_class.replacement(module, ON)
    made.install()
    instance = embedding(module, case)
    held = types.MethodType(made.ours, instance)
    compiled = torch.compile(held, fullgraph=True, backend=keep, options={"guard_filter_fn": guards})
    call = case.positions, case.query, case.key
    served = compiled(*call)
    made.undo()
    for a, b in zip(served, compiled(*call), strict=True):
        assert torch.equal(a, b), "what was traced stays"
    made.install()
    compiled(*call)
    assert len(graphs) == 1, "switching fails no guard"
    # As for every function that is called: which one it is. What it answers is in no guard.
    assert {one for one in guarded if "is_on" in one[0]} == {("is_on", "CLOSURE_MATCH")}
    made.undo()
    torch._dynamo.reset()
    assert torch.compile(held, fullgraph=True, backend="eager")(*call) == ("upstream", True), "traced while off"


def test_what_the_switch_costs_a_call() -> None:
    """The smallest of several rounds; ``pytest -s`` prints it."""
    module = newer()
    made = ascend_rope_kernel.replacement(module, ON)
    closure = dict(zip(made.ours.__code__.co_freevars, made.ours.__closure__, strict=True))
    is_on = closure["is_on"].cell_contents
    rounds = (timeit.repeat(statement, globals={"is_on": is_on}, number=20_000) for statement in ("is_on()", "None"))
    asked, nothing = (min(times) / 20_000 * 1e9 for times in rounds)
    print(f"asking the switch takes {asked - nothing:.0f} ns a call")
    assert asked - nothing < 500
