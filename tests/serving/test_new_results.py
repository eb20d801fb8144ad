"""An operator of three new results and none in place, whose kernels are run several times before they serve."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="calls need torch")
pytest.importorskip("triton", reason="calls need triton")

from rope_patch.kernels.launch import Launch  # noqa: E402
from rope_patch.reporting import ledger, log  # noqa: E402
from rope_patch.serving import first_use, layouts, trial  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.serving import split  # noqa: E402
from tests.serving.scaled import served  # noqa: E402

ITS_CHECK = 9 * split.LANES  # lanes of each result: two full tiles and a tail


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


def check(num_tokens: int = 5, seed: int = 0) -> None:
    given = split.call(num_tokens, seed)
    before = given.packed.clone()
    results = served(given)
    assert results is not None, ledger.fallbacks()
    assert isinstance(results, tuple)
    for part, result in zip(before.split(split.LANES, -1), results, strict=True):
        assert torch.equal(result, 2 * part)
        assert result.is_contiguous()
    assert torch.equal(given.packed, before)


def test_it_is_checked_then_served_then_cached_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[Launch] = []
    right = Launch.on
    monkeypatch.setattr(Launch, "on", lambda work, *rest: (launches.append(work), right(work, *rest))[1])
    for seed in range(3):
        check(seed=seed)
        assert bool(launches) == (seed == 0), "later calls are cached launches"
        launches.clear()
    for num_tokens in (0, 1, 2, 9, 200):
        check(num_tokens)
    assert not ledger.fallbacks()
    ((name, entry),) = ((name, entry) for name, entry in ledger.signatures().items() if name)
    assert name == f"split float32 {split.DEVICE}"
    assert (entry["path"], entry["check"]) == ("kernel", "passed")


def test_each_run_of_the_check_finds_its_results_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a kernel that writes once would pass; and the runs are on many cores and on one."""
    programs, right = [], Launch.on

    def launch(work: Launch, call: Any, *new: Any) -> object:
        if all(tensor.isnan().all() for tensor in new):
            programs.append(work.programs)
        return right(work, call, *new)

    monkeypatch.setattr(trial.runner, "recorded", lambda *given: None)
    monkeypatch.setattr(Launch, "on", launch)
    check()
    assert programs[:4] == [3, 1, 3, 1], "two full tiles and a tail of the smaller plan"
    assert programs[4:8] == [3, 1, 3, 1]


@pytest.mark.parametrize("result", [0, 1, 2], ids=split.PARTS)
@pytest.mark.parametrize("token", [0, split.TILE, 2 * split.TILE], ids=["the first tile", "the second", "the tail"])
@pytest.mark.parametrize("when", ["at each run", "at some runs", "at the last run", "on one core"])
def test_a_kernel_that_is_wrong_in_one_result_in_one_tile_never_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str, token: int, result: int
) -> None:
    runs, right = itertools.count(1), Launch.on

    def is_wrong(work: Launch) -> bool:
        number = next(runs)
        return {
            "at each run": True,
            "at some runs": number % 4 == 1,
            "at the last run": number == split.SplitCall.runs,
            "on one core": work.programs == 1,
        }[when]

    def launch(work: Launch, call: Any, *new: Any) -> object:
        found = right(work, call, *new)
        if work.constants["TILE"] > 1 and is_wrong(work):
            new[result][token, 7] *= 1.001
        return found

    monkeypatch.setattr(trial.runner, "recorded", lambda *given: None)  # a launcher of its own would be right
    monkeypatch.setattr(Launch, "on", launch)
    for seed in range(2):
        assert served(split.call(seed=seed)) is None
    name = split.PARTS[result]
    faults = {
        True: f"first-use check failed: 1 of {ITS_CHECK} {name} lanes wrong",
        False: f"first-use check failed: different from run to run: 1 of {ITS_CHECK} {name} lanes",
    }
    fault = faults[when in ("at each run", "on one core")]
    assert ledger.fallbacks() == {fault: 2}
    assert f"native splitting for split float32 {split.DEVICE}: {fault}" in caplog.text


def test_a_kernel_that_differs_from_run_to_run_by_its_own_launcher_never_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the same kernel that Triton would start."""
    right, runs = trial.runner.recorded, itertools.count()

    def recorded(*given: Any) -> Any:
        found = right(*given)
        return found and found._replace(run=lambda *handed: found.run(*handed) if next(runs) % 4 else None)

    monkeypatch.setattr(trial.runner, "recorded", recorded)
    assert served(split.call()) is None
    (fault,) = ledger.fallbacks()
    assert "different from run to run" in fault
