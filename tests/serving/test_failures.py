"""When a launch fails: whoever serves the call, its tensors are rotated once, or the caller gets the error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

torch = pytest.importorskip("torch", reason="calls need torch")
pytest.importorskip("triton", reason="calls need triton")

from rope_patch.kernels.launch import Launch  # noqa: E402
from rope_patch.operators import (  # noqa: E402
    contract,
    dispatch,
    reference,
)
from rope_patch.operators.rotation import Rotation  # noqa: E402
from rope_patch.reporting import ledger, log  # noqa: E402
from rope_patch.serving import first_call, first_use, layouts  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.rotations import Case, assert_rotated, rotation  # noqa: E402

Run = Callable[..., object]


@pytest.fixture(autouse=True)
def fresh_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    dispatch.forget()
    ledger.reset()
    log.warned.clear()
    interpreted_runner.install(monkeypatch)
    yield
    dispatch.forget()


def case_of(strided: bool, num_tokens: int = 3, seed: int = 0) -> Case:
    return rotation(num_tokens, 2, 1, 32, 32, strided=strided, seed=seed)


def serve(case: Case) -> Any:
    return contract.serve(case.positions, case.query, case.key, case.cache, Rotation(32, 32, True))


def call_site(case: Case) -> bool:
    """A patched call site, whose original rotates in place too. Returns whether the kernel served."""
    before = case.query.clone(), case.key.clone()
    served = serve(case)
    rotated = served or (case.query, case.key)
    if served is None:
        for tensor in rotated:
            heads = tensor.view(case.num_tokens, -1, 32)
            heads.copy_(reference.rotate(case.positions, heads, case.cache, Rotation(32, 32, True)))
    for old, new in zip(before, rotated, strict=True):
        assert_rotated(case, old, new)
    return served is not None


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def instead(*arguments: Any) -> NoReturn:
        raise error

    return instead


class Broken(list[int]):
    """A count that cannot be counted up."""

    def __setitem__(self, *item: Any) -> NoReturn:
        raise ValueError("the ledger")


def broken_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ledger.page
    counts = {path: Broken([0]) for path in ("eager", "op", "traced")}

    def instead(signature: Any = None) -> ledger.Page:
        found = page(signature)
        found.served = dict(counts)
        return found

    monkeypatch.setattr(ledger, "page", instead)


@contextmanager
def broken_guard(device: Any) -> Iterator[None]:
    yield
    raise RuntimeError("the device guard")


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "the plan": lambda patch: patch.setattr(first_call, "make_plan", raising(ValueError("the plan"))),
    "building the cached launch": lambda patch: patch.setattr(
        first_call, "cached_launch", raising(OSError("no driver"))
    ),
    "the ledger": broken_ledger,
    "caching the launch": lambda patch: patch.setattr(layouts, "cache", raising(MemoryError("no memory"))),
    "the device guard's end": lambda patch: patch.setattr(first_call, "current", broken_guard),
}


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
@pytest.mark.parametrize("what", BROKEN)
def test_whatever_fails_around_the_launch_the_tensors_are_rotated_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str, strided: bool
) -> None:
    assert serve(case_of(strided)) is not None
    layouts.forget()
    log.warned.clear()
    BROKEN[what](monkeypatch)
    for seed in range(2):
        case = case_of(strided, seed=seed)
        call_site(case)
    assert len(caplog.messages) == 1, "said once"


def watch(instead: Callable[[Run], Run]) -> None:
    """Replace ``run`` of each launcher by ``instead(run)``, from now on."""
    for found in first_use.results.values():
        assert not isinstance(found, str)
        for kernel, launcher in found.runners.items():
            found.runners[kernel] = launcher._replace(run=instead(launcher.run))
    layouts.forget()


def failing(error: BaseException, after_the_start: bool, tries: list[int]) -> Callable[[Run], Run]:
    def make(run: Run) -> Run:
        def instead(*handed: Any) -> NoReturn:
            tries.append(len(handed))
            if after_the_start:
                run(*handed)
            raise error

        return instead

    return make


def prepared(strided: bool, error: BaseException, after_the_start: bool = False) -> list[int]:
    """A layout that is cached, with a launcher that fails. Returns the list of its tries."""
    tries: list[int] = []
    assert call_site(case_of(strided))
    watch(failing(error, after_the_start, tries))
    assert call_site(case_of(strided, seed=1)), "through Triton, and cached"
    return tries


IN_DOUBT = [RuntimeError("the driver"), TimeoutError("a signal's handler"), KeyboardInterrupt()]


@pytest.mark.parametrize("after_the_start", [True, False], ids=["after the start", "before"])
@pytest.mark.parametrize("error", IN_DOUBT, ids=lambda error: type(error).__name__)
def test_if_a_launch_in_place_may_have_been_started_the_caller_gets_the_error_and_nobody_rotates_again(
    error: BaseException, after_the_start: bool
) -> None:
    prepared(False, error, after_the_start)
    case = case_of(False, seed=2)
    before = case.query.clone()
    with pytest.raises(type(error)) as raised:
        call_site(case)
    assert raised.value is error
    if after_the_start:
        assert_rotated(case, before, case.query)
    else:
        assert torch.equal(case.query, before)
    if isinstance(error, Exception):
        assert list(ledger.fallbacks().values()) == [1]
        assert call_site(case_of(False, seed=3)), "through Triton"


@pytest.mark.parametrize("after_the_start", [True, False], ids=["after the start", "before"])
@pytest.mark.parametrize("error", IN_DOUBT[:2], ids=lambda error: type(error).__name__)
def test_a_launch_into_new_tensors_that_fails_goes_to_the_original(error: Exception, after_the_start: bool) -> None:
    prepared(True, error, after_the_start)
    assert not call_site(case_of(True, seed=2))
    assert ledger.fallbacks() == {f"its kernel's own launcher failed: {type(error).__name__}": 1}


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
def test_a_launcher_that_fails_is_counted_warned_of_once_and_not_used_again(
    caplog: pytest.LogCaptureFixture, strided: bool
) -> None:
    tries = prepared(strided, TypeError("function takes exactly 23 arguments"))
    assert call_site(case_of(strided, num_tokens=5)), "another layout of the signature, cached too"
    assert not call_site(case_of(strided, seed=2))
    for seed in range(3, 6):
        assert call_site(case_of(strided, seed=seed)), "through Triton"
        assert call_site(case_of(strided, num_tokens=5, seed=seed))
    assert len(tries) == 1
    assert ledger.fallbacks() == {"its kernel's own launcher failed: TypeError": 1}
    (warning,) = caplog.messages
    assert "function takes exactly 23 arguments" in warning


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
def test_no_memory_for_a_launch_is_not_the_launchers_fault(strided: bool) -> None:
    tries = prepared(strided, torch.OutOfMemoryError("NPU out of memory. Tried to allocate 2.00 MiB"))
    for seed in range(2, 4):
        assert not call_site(case_of(strided, seed=seed))
    assert len(tries) == 2
    assert ledger.fallbacks() == {"could not be started: OutOfMemoryError": 2}


def test_no_memory_for_new_tensors_is_not_the_launchers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from rope_patch.serving import cached_launch

    full = [False]

    def allocator(device: Any) -> Callable[..., Any]:
        def empty(shape: Any, strides: Any, dtype: Any) -> Any:
            if full[0]:
                raise torch.OutOfMemoryError("NPU out of memory")
            return torch.empty_strided(shape, strides, dtype=dtype, device=device)

        return empty

    monkeypatch.setattr(cached_launch, "allocator", allocator)
    assert call_site(case_of(True))
    full[0] = True
    assert not call_site(case_of(True, seed=1))
    full[0] = False
    assert call_site(case_of(True, seed=2))
    assert ledger.fallbacks() == {"could not be started: OutOfMemoryError": 1}


@pytest.fixture
def through_triton(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The launches through Triton, which fail if the fixture's ``append`` does."""
    seen: list[Launch] = []
    right = Launch.on
    monkeypatch.setattr(Launch, "on", lambda work, *rest: (seen.append(work), right(work, *rest))[1])
    return seen


def test_a_signature_that_is_retired_is_not_served_from_layouts_that_were_cached_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for num_tokens in (3, 4):
        for seed in range(2):
            assert call_site(case_of(False, num_tokens, seed))
    with monkeypatch.context() as patched:
        patched.setattr(Launch, "on", raising(RuntimeError("no such kernel any more")))
        assert not call_site(case_of(False, num_tokens=5))
    for num_tokens in (4, 3, 5):
        assert not call_site(case_of(False, num_tokens, seed=2))


def test_a_signature_that_another_thread_retires_meanwhile_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layouts.cache

    def cache(*given: Any) -> None:
        (signature,) = first_use.results
        first_use.results[signature] = "retired"
        right(*given)

    assert call_site(case_of(False))
    layouts.forget()
    monkeypatch.setattr(layouts, "cache", cache)
    assert call_site(case_of(False, seed=1)), "started before it was retired"
    assert not call_site(case_of(False, seed=2))


@pytest.mark.parametrize("where", ["_cached", "_older"])
def test_a_launch_that_is_forgotten_while_it_is_looked_up_stays_forgotten(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Forgotten(dict[Any, Any]):
        def get(self, layout: Any, default: Any = None) -> Any:
            found = super().get(layout, default)
            layouts.forget()  # by another thread
            return found

    monkeypatch.setattr(layouts, where, Forgotten({("a layout",): serve}))
    layouts.look_up(("a layout",))
    assert layouts.last == ((), None)
    assert layouts.look_up(("a layout",)) is None
