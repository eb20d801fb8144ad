"""Tensors whose addresses do not hold their values go to the original, also where their layout is cached."""

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="rotations need torch")
pytest.importorskip("triton", reason="rotations need triton")

from rope_patch.operators import contract, dispatch  # noqa: E402
from rope_patch.operators.rotation import Rotation  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from rope_patch.serving import memory  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.rotations import DEVICE, Case, rotation  # noqa: E402

NAMES = "positions", "query", "key", "cache"


@pytest.fixture(autouse=True)
def fresh_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    dispatch.forget()
    ledger.reset()
    interpreted_runner.install(monkeypatch)
    yield
    dispatch.forget()


def serve(case: Case, **changed: Any) -> Any:
    given = {name: getattr(case, name) for name in NAMES} | changed
    return contract.serve(*(given[name] for name in NAMES), Rotation(32, 32, True))


def call(seed: int = 0) -> Case:
    return rotation(3, 2, 1, 32, 32, strided=False, seed=seed)


def freed(tensor: Any, left: int = 0, offset: int = 0) -> Any:
    """A tensor of the same layout, ``offset`` elements into a storage of which ``left`` bytes are left."""
    whole = torch.empty(offset + tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    view = whole[offset:].view(tensor.shape)
    view.untyped_storage().resize_(left)
    return view


SPOILT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "freed": (freed, memory.NO_MEMORY),
    "freed, a view": (lambda tensor: freed(tensor, offset=64), memory.NO_MEMORY),
    "a neg bit": (torch._neg_view, memory.NEGATED),
}


@pytest.mark.parametrize("cached", [False, True], ids=["new", "cached"])
@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_cannot_be_used_by_its_addresses_goes_to_the_original(name: str, how: str, cached: bool) -> None:
    for seed in range(2 if cached else 0):
        assert serve(call(seed)) is not None
    case = call()
    before = case.query.clone()
    spoil, expected = SPOILT[how]
    assert serve(case, **{name: spoil(getattr(case, name))}) is None
    assert ledger.fallbacks() == {f"expected {expected}": 1}
    assert torch.equal(case.query, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_neg_bit_is_noticed_without_gradients_where_the_layout_is_new(name: str) -> None:
    with torch.inference_mode():
        case = call()
        assert serve(case, **{name: torch._neg_view(getattr(case, name))}) is None
    assert ledger.fallbacks() == {f"expected {memory.NEGATED}": 1}


@pytest.mark.skipif(DEVICE != "cpu", reason="complex numbers need an NPU's operators")
def test_an_imaginary_part_has_a_layout_of_its_own_so_that_no_cached_launch_takes_it() -> None:
    whole = torch.randn(3, 64, dtype=torch.complex64).conj().imag
    assert whole.is_neg()
    for seed in range(2):
        assert serve(rotation(3, 2, 1, 32, 32, dtype=torch.float32, strided=False, seed=seed)) is not None
    case = rotation(3, 2, 1, 32, 32, dtype=torch.float32, strided=False)
    with torch.inference_mode():
        assert serve(case, query=whole) is None
    assert not whole.contiguous().is_neg(), "what rotates a copy of it rotates its values"


@pytest.mark.parametrize("name", NAMES)
def test_a_storage_that_was_cut_short_goes_to_the_original(name: str) -> None:
    case = call()
    assert serve(case, **{name: freed(getattr(case, name), left=8)}) is None
    assert ledger.fallbacks() == {f"expected {memory.NO_MEMORY}": 1}


@pytest.mark.parametrize("name", NAMES)
def test_private_formats_of_torch_npu_go_to_the_original(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """FRACTAL_NZ (29), as ``npu_format_cast`` makes it. The host CANN knows no private format."""
    case = call()
    private = getattr(case, name)
    asked = SimpleNamespace(get_npu_format=lambda tensor: 29 if tensor is private else 2)
    if DEVICE == "cpu":
        monkeypatch.setattr(memory, "NPU", "cpu")
        monkeypatch.setitem(sys.modules, "torch_npu", asked)
    else:
        monkeypatch.setattr(sys.modules["torch_npu"], "get_npu_format", asked.get_npu_format)
    for _ in range(2):
        assert serve(case) is None
    assert ledger.fallbacks() == {f"expected {memory.PRIVATE}": 2}
    assert serve(call(seed=1)) is not None


def test_where_gradients_are_enabled_autograd_knows_of_tensors_rotated_in_place() -> None:
    for seed in range(3):
        case = call(seed)
        weight = torch.ones(3, 64, dtype=case.query.dtype, device=DEVICE, requires_grad=True)
        loss = (weight * case.query).sum()
        assert serve(case) is not None
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_tensor_that_is_not_rotated_in_place_keeps_its_version() -> None:
    case = rotation(3, 2, 1, 32, 32)
    version = case.query._version
    assert serve(case) is not None
    assert case.query._version == version


def test_tensors_of_inference_mode_which_have_no_version_are_served_where_gradients_are_enabled() -> None:
    with torch.inference_mode():
        case = call()
    for _ in range(2):
        assert serve(case) is not None
    assert not ledger.fallbacks()
