"""An operator that serving does not know is checked, served, cached, retired when wrong, and counted."""

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="calls need torch")
pytest.importorskip("triton", reason="calls need triton")

from rope_patch.kernels.launch import Launch  # noqa: E402
from rope_patch.reporting import ledger, log  # noqa: E402
from rope_patch.serving import first_use, layouts, trial  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.serving import scaled  # noqa: E402

every_form = pytest.mark.parametrize(
    ("tensors", "fresh"), [(1, True), (1, False), (2, True), (2, False)],
    ids=["one, fresh", "one, in place", "two, fresh", "two, in place"],
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget()
    log.warned.clear()
    interpreted_runner.install(monkeypatch)
    yield
    forget()


def forget() -> None:
    layouts.forget()
    first_use.forget()


def check(tensors: int, fresh: bool, num_tokens: int = 5, seed: int = 0) -> None:
    given = scaled.call(num_tokens, tensors, fresh, seed)
    before = [None if tensor is None else tensor.clone() for tensor in given.written]
    results = scaled.served(given)
    assert results is not None, ledger.fallbacks()
    for was, own, now in zip(before, given.written, results, strict=True):
        if was is None:
            assert now is None
        else:
            assert torch.equal(now, 3 * was)
            assert (now is own) != fresh
            assert torch.equal(own, was if fresh else 3 * was)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Those that went through Triton."""
    seen: list[Launch] = []
    right = Launch.on
    monkeypatch.setattr(Launch, "on", lambda work, *rest: (seen.append(work), right(work, *rest))[1])
    return seen


@every_form
def test_it_is_checked_then_served_then_cached_and_counted(tensors: int, fresh: bool, launches: list[Launch]) -> None:
    for seed in range(3):
        check(tensors, fresh, seed=seed)
        assert bool(launches) == (seed == 0), "later calls are cached launches"
        launches.clear()
    ((name, entry),) = ledger.signatures().items()
    assert name == f"scaled {tensors} tensors in place {0 if fresh else tensors} {scaled.call().device}"
    assert (entry["path"], entry["check"], entry["calls"]) == ("kernel", "passed", 3)
    assert [plan["block_tokens"] for plan in entry["plans"]] == [1, scaled.TILE]
    assert ledger.calls() == {"eager": 3}


@every_form
def test_each_number_of_tokens_is_served_by_what_was_checked(tensors: int, fresh: bool) -> None:
    for num_tokens in (1, 2, 9, 200):
        for seed in range(2):
            check(tensors, fresh, num_tokens, seed)
    assert len(ledger.signatures()) == 1
    assert not ledger.fallbacks()


def test_no_tokens_are_served_without_a_launch(launches: list[Launch]) -> None:
    check(2, fresh=True, num_tokens=0)
    assert not launches
    assert ledger.calls() == {"eager": 1}


# Which token of a launch by the larger tile is wrong.
TILES = {"the first tile": 0, "the second tile": scaled.TILE, "the tail": 2 * scaled.TILE}


def seed_mistake(monkeypatch: pytest.MonkeyPatch, output: int, token: int) -> None:
    """Let the kernel spoil one lane of one token in one output, where the larger tile is launched."""
    right = Launch.on

    def launch(work: Launch, call: Any, *outputs: Any) -> object:
        found = right(work, call, *outputs)
        spoilt = call.written[output] if outputs[output] is None else outputs[output]
        if work.constants["TILE"] > 1 and token < call.num_tokens:
            spoilt[token, 7] *= 1.001
        return found

    monkeypatch.setattr(Launch, "on", launch)


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "in place"])
@pytest.mark.parametrize("place", TILES)
@pytest.mark.parametrize(("tensors", "output"), [(1, 0), (2, 0), (2, 1)], ids=["x", "x of two", "z of two"])
def test_a_kernel_that_is_wrong_in_one_output_in_one_tile_never_serves(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tensors: int,
    output: int,
    place: str,
    fresh: bool,
) -> None:
    monkeypatch.setattr(trial.runner, "recorded", lambda *given: None)  # a launcher of its own would be right
    seed_mistake(monkeypatch, output, TILES[place])
    for seed in range(2):
        given = scaled.call(tensors=tensors, fresh=fresh, seed=seed)
        before = given.x.clone()
        assert scaled.served(given) is None
        assert torch.equal(given.x, before), "the original serves"
    fault = f"first-use check failed: 1 of {9 * scaled.LANES} {'xz'[output]} lanes wrong"
    assert ledger.fallbacks() == {fault: 2}
    assert [entry["check"] for entry in ledger.signatures().values()] == [fault]
    assert caplog.text.count(fault) == 1


@every_form
def test_a_launcher_of_its_own_that_is_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tensors: int, fresh: bool, launches: list[Launch]
) -> None:
    """Right when Triton starts it, wrong by its own launcher: Triton then starts it, at each call."""
    right = trial.runner.recorded

    def recorded(*given: Any) -> Any:
        found = right(*given)
        return found and found._replace(run=lambda *handed: None)

    monkeypatch.setattr(trial.runner, "recorded", recorded)
    for seed in range(3):
        launches.clear()
        check(tensors, fresh, seed=seed)
        assert launches
    (trusted,) = first_use.results.values()
    assert isinstance(trusted, first_use.Trusted)
    assert not trusted.runners


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "in place"])
def test_a_kernel_that_fails_to_start_later_is_retired_with_its_cached_launches(
    monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    check(2, fresh)
    check(2, fresh, num_tokens=6)
    layouts.forget()

    def launch(*arguments: Any) -> None:
        raise RuntimeError("no such kernel any more")

    check(2, fresh, num_tokens=6)  # cached again
    with monkeypatch.context() as patched:
        patched.setattr(Launch, "on", launch)
        assert scaled.served(scaled.call(5, fresh=fresh)) is None
    assert scaled.served(scaled.call(6, fresh=fresh)) is None, "its cached launch went with it"


def test_two_tensors_in_one_memory_go_to_the_original() -> None:
    check(2, fresh=False)
    for _ in range(2):  # a cached launch, and a first call
        given = scaled.call()
        one = scaled.ScaledCall(given.x, given.x, given.a, False)
        assert scaled.first_call.serve(one, (), "eager") is None
        layouts.forget()
    assert ledger.fallbacks() == {scaled.ScaledCall.shared: 2}


def test_a_check_that_is_not_possible_now_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    given = scaled.call()
    given.a.fill_(float("nan"))
    assert scaled.served(given) is None
    assert ledger.fallbacks() == {first_use.NOT_POSSIBLE: 1}
    monkeypatch.setattr(first_use, "clock", lambda: 1e12)
    check(2, fresh=True)
