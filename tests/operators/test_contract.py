"""What ``serve`` does with vLLM's calls: in place, fresh, or handed back with a reason."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="rotations need torch")
pytest.importorskip("triton", reason="rotations need triton")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from rope_patch.operators import contract, dispatch  # noqa: E402
from rope_patch.operators.rotation import Rotation  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from tests.rotations import DEVICE, Case, assert_rotated, rotation  # noqa: E402


@pytest.fixture(autouse=True)
def fresh_counts() -> Iterator[None]:
    dispatch.forget()
    ledger.reset()
    yield
    dispatch.forget()


def serve(case: Case, **changed: object) -> Any:
    tensors = {"positions": case.positions, "query": case.query, "key": case.key, "cos_sin_cache": case.cache}
    asked = case.asked._replace(**{name: changed.pop(name) for name in Rotation._fields if name in changed})
    return contract.serve(**tensors | changed, rotation=asked)


def test_contiguous_tensors_are_rotated_in_place_and_returned() -> None:
    case = rotation(5, 4, 2, 64, 40, strided=False)
    before = case.query.clone(), case.key.clone()
    query, key = serve(case)
    assert query is case.query
    assert key is case.key
    assert_rotated(case, before[0], query)
    assert_rotated(case, before[1], key)


def test_views_of_qkv_give_fresh_contiguous_tensors_pass_through_lanes_included() -> None:
    case = rotation(5, 4, 2, 64, 40)
    before = case.storage.clone()
    query, key = serve(case)
    assert query.is_contiguous()
    assert key.is_contiguous()
    assert query.shape == case.query.shape
    assert_rotated(case, case.query, query)
    assert_rotated(case, case.key, key)
    assert torch.equal(case.storage, before)


def test_a_one_token_view_of_qkv_is_contiguous_and_rotated_in_place_two_tokens_are_not() -> None:
    one, two = rotation(1, 4, 2, 64, 64), rotation(2, 4, 2, 64, 64)
    assert serve(one)[0] is one.query
    assert serve(two)[0] is not two.query


def test_of_a_contiguous_query_and_a_strided_key_only_the_query_is_rotated_in_place() -> None:
    case = rotation(5, 4, 2, 64, 64)
    case.query = case.query.clone()
    query, key = serve(case)
    assert query is case.query
    assert key is not case.key
    assert key.is_contiguous()


def test_no_key_gives_none() -> None:
    assert serve(rotation(5, 4, 0, 64, 64))[1] is None


def test_without_tokens_the_result_is_empty() -> None:
    query, key = serve(rotation(0, 4, 2, 64, 64))
    assert (query.shape, key.shape) == ((0, 256), (0, 128))


@pytest.mark.parametrize("positions_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("layout", ["[T,H*D]", "[T,H,D]", "[B,S,H*D]"])
def test_every_layout_keeps_its_shape(layout: str, positions_dtype: torch.dtype) -> None:
    case = rotation(6, 4, 2, 64, 40, positions_dtype=positions_dtype)
    flat = case.query
    if layout == "[T,H,D]":
        case.query, case.key = case.query.view(6, 4, 64), case.key.view(6, 2, 64)
    if layout == "[B,S,H*D]":
        case.positions = case.positions.view(2, 3)
        case.query, case.key = (t.unflatten(0, (2, 3)) for t in (case.query, case.key))
    query, _ = serve(case)
    assert query.shape == case.query.shape
    assert_rotated(case, flat, query)


REFUSED = {
    "float64": {"query": torch.zeros(5, 256, dtype=torch.float64)},
    "key of another dtype": {"key": torch.zeros(5, 128, dtype=torch.float16)},
    "fp16 cache for bf16": {"cos_sin_cache": torch.zeros(97, 40, dtype=torch.float16)},
    "float positions": {"positions": torch.zeros(5)},
    "odd rotary_dim": {"rotary_dim": 39, "cos_sin_cache": torch.zeros(97, 39, dtype=torch.bfloat16)},
    "rotary_dim over head_size": {"rotary_dim": 66, "cos_sin_cache": torch.zeros(97, 66, dtype=torch.bfloat16)},
    "cache too narrow": {"cos_sin_cache": torch.zeros(97, 38, dtype=torch.bfloat16)},
    "cache rows too far apart": {
        "cos_sin_cache": torch.zeros(40, dtype=torch.bfloat16).as_strided((1, 40), (2**31, 1))
    },
    "empty cache": {"cos_sin_cache": torch.zeros(0, 40, dtype=torch.bfloat16)},
    "more positions than tokens": {"positions": torch.zeros(6, dtype=torch.int64)},
    "heads that do not divide": {"query": torch.zeros(5, 250, dtype=torch.bfloat16)},
    "mrope positions": {"positions": torch.zeros(3, 5, dtype=torch.int64)},
    "positions apart": {"positions": torch.zeros(10, dtype=torch.int64, device=DEVICE)[::2]},
    "lanes apart": {"query": torch.zeros(5, 512, dtype=torch.bfloat16, device=DEVICE)[:, ::2]},
    "another device": {"query": torch.zeros(5, 256, dtype=torch.bfloat16, device="meta")},
}


@pytest.mark.parametrize("changed", REFUSED.values(), ids=REFUSED)
def test_a_call_that_the_kernel_cannot_take_is_handed_back_counted_and_untouched(changed: dict[str, object]) -> None:
    case = rotation(5, 4, 2, 64, 40, strided=False)
    before = case.query.clone(), case.key.clone()
    changed = {n: v.to(DEVICE) if isinstance(v, torch.Tensor) and not v.is_meta else v for n, v in changed.items()}
    assert serve(case, **changed) is None
    assert sum(ledger.fallbacks().values()) == 1
    assert not ledger.calls()
    assert torch.equal(case.query, before[0])
    assert torch.equal(case.key, before[1])


def test_sequences_that_are_not_evenly_spaced_are_handed_back() -> None:
    case = rotation(6, 4, 2, 64, 64)
    padded = torch.zeros(2, 4, 256, dtype=torch.bfloat16, device=DEVICE)
    assert serve(case, positions=case.positions.view(2, 3), query=padded[:, :3], key=None) is None
    assert sum(ledger.fallbacks().values()) == 1


@pytest.mark.parametrize("wanted", ["query", "key", "cos_sin_cache"])
def test_calls_that_want_gradients_are_handed_back(wanted: str) -> None:
    case = rotation(5, 4, 2, 64, 64, dtype=torch.float32)
    given = {"query": case.query, "key": case.key, "cos_sin_cache": case.cache}[wanted]
    assert serve(case, **{wanted: given.clone().requires_grad_()}) is None
    assert serve(case, query=torch.nn.Parameter(case.query.clone())) is None
    assert ledger.fallbacks() == {"gradients wanted": 2}


# On a CPU only: these tests are about PyTorch's transforms, which not every device supports.
on_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="about PyTorch, not about a device")


Call = Callable[[torch.Tensor], torch.Tensor]


def plain() -> Case:
    return rotation(5, 4, 4, 64, 64, dtype=torch.float32, strided=False)


STRANGE: dict[str, Callable[[Case], dict[str, object]]] = {
    "a sparse query": lambda case: {"query": case.query.to_sparse()},
    "a sparse cache": lambda case: {"cos_sin_cache": case.cache.to_sparse()},
    "sparse positions": lambda case: {"positions": case.positions.to_sparse()},
    "a fake key": lambda case: {"key": FakeTensorMode().from_tensor(case.key)},
    "no tensor at all": lambda case: {"query": None},
    "one tensor as both": lambda case: {"key": case.query},
    "both in one memory": lambda case: {
        "positions": case.positions[1:], "query": case.query[:-1], "key": case.query[1:]
    },
}  # fmt: skip


@on_cpu
@pytest.mark.parametrize("changed", STRANGE.values(), ids=STRANGE)
def test_tensors_without_memory_of_their_own_are_handed_back_untouched(
    changed: Callable[[Case], dict[str, object]],
) -> None:
    case = plain()
    before = case.query.clone()
    assert serve(case, **changed(case)) is None
    assert sum(ledger.fallbacks().values()) == 1
    assert torch.equal(case.query, before)
    assert not ledger.signatures(), "no kernel was checked"


def dual(call: Call, query: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(forward_ad.make_dual(query, query))).tangent


# Transforms of PyTorch. Under them a tensor is not plain memory, or operators are recorded.
TRANSFORMS: dict[str, Callable[[Call, torch.Tensor], torch.Tensor]] = {
    "vmap": lambda call, query: torch.vmap(call)(query.expand(2, *query.shape))[1],
    "jvp": lambda call, query: torch.func.jvp(call, (query,), (query,))[1],
    "functionalize": lambda call, query: torch.func.functionalize(call)(query),
    "forward-mode tangents": dual,
    "make_fx": lambda call, query: make_fx(call)(query)(query),
    "torch.jit.trace": lambda call, query: torch.jit.trace(call, (query,), check_trace=False)(query),
}


@on_cpu
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_calls_under_transforms_are_handed_back_and_check_no_kernel(
    transform: Callable[[Call, torch.Tensor], torch.Tensor],
) -> None:
    case = plain()

    def call(query: torch.Tensor) -> torch.Tensor:
        """A patched call site whose original multiplies by two."""
        rotated = serve(case, query=query, key=None)
        return query * 2 if rotated is None else rotated[0]

    query = case.query.clone()
    assert torch.equal(transform(call, query), case.query * 2)
    assert torch.equal(query, case.query)
    assert not ledger.signatures()


def test_calls_under_a_dispatch_mode_are_handed_back_and_the_kernel_serves_later() -> None:
    """A kernel that is started on addresses is not an operator, so the mode would not see it."""
    case = plain()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert serve(case) is None
    assert serve(case) is not None


def test_a_parameter_is_plain_memory_where_no_gradient_is_wanted() -> None:
    case = rotation(5, 4, 2, 64, 64, strided=False)
    before = case.query.clone()
    with torch.no_grad():
        query, _ = serve(case, query=torch.nn.Parameter(case.query))
    assert_rotated(case, before, query)
    assert ledger.calls() == {"eager": 1}


LAYOUTS = {
    "head-major": torch.zeros(4, 5, 64, dtype=torch.bfloat16, device=DEVICE).transpose(0, 1),
    "heads on top of each other": torch.zeros(5, 1, 64, dtype=torch.bfloat16, device=DEVICE).expand(5, 4, 64),
    "tokens on top of each other": torch.zeros(1, 4, 64, dtype=torch.bfloat16, device=DEVICE).expand(5, 4, 64),
}


@pytest.mark.parametrize("query", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_is_not_rows_of_heads_is_handed_back(query: torch.Tensor) -> None:
    assert serve(rotation(5, 4, 2, 64, 64), query=query, key=None) is None
    assert not ledger.signatures(), "no kernel was checked"


@pytest.mark.parametrize(("head_size", "rotary_dim"), [(64, 64), (80, 20)])
def test_a_query_without_heads_is_served(head_size: int, rotary_dim: int) -> None:
    case = rotation(5, 4, 2, head_size, rotary_dim)
    query, key = serve(case, query=case.query[:, :0])
    assert query.shape == (5, 0)
    assert_rotated(case, case.key, key)


def test_without_any_heads_nothing_is_launched() -> None:
    """Tensor parallelism leaves no rank without heads, but nothing forbids such a call. It checks no kernel."""
    case = rotation(5, 4, 2, 64, 64)
    query, key = serve(case, query=case.query[:, :0], key=case.key[:, :0])
    assert (query.shape, key.shape) == ((5, 0), (5, 0))
    assert serve(case, query=case.query[:, :0], key=None)[1] is None
    assert not ledger.signatures()


def test_calls_are_counted() -> None:
    for _ in range(3):
        serve(rotation(5, 4, 2, 64, 64))
    assert ledger.calls() == {"eager": 3}


def test_the_global_random_numbers_stay_the_same() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    serve(rotation(5, 4, 2, 64, 64))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
def test_of_positions_outside_the_cache_the_lowest_32_bits_are_clamped(strided: bool) -> None:
    rows = {-1: 0, 97: 96, 2**31 - 1: 96, 2**31: 0, 2**32: 0, 2**32 + 5: 5, -(2**32) + 7: 7, 2**63 - 1: 0, -(2**63): 0}
    case = rotation(len(rows), 4, 2, 64, 40, strided=strided)
    case.positions[:] = torch.tensor(list(rows))
    before = case.query.clone()
    query, _ = serve(case)
    case.positions[:] = torch.tensor(list(rows.values()))
    assert_rotated(case, before, query)
