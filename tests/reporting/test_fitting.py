"""What is written is read, however much a process has to report."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import rope_patch
from rope_patch.reporting import fitting, report_folder

PLANS = [{"kernel": "rotate", "tokens": 4096, "block_heads": 8, "programs": 48}] * 8


def signature(path: str = "kernel", calls: int = 0, check: str = "passed", **fallbacks: int) -> Any:
    return {"path": path, "check": check, "plans": PLANS, "calls": calls, "fallbacks": fallbacks}


def reporting(**status: Any) -> Any:
    report = report_folder.current(copy.deepcopy(rope_patch.status()))
    report["status"].update(status)  # type: ignore[typeddict-item]
    return report


LONG = "ub overflow \u2028" * 30_000
MUCH = {
    "signatures": {"signatures": {f"neox {n}": signature() for n in range(5000)}},
    "long checks": {"signatures": {f"neox {n}": signature("native", 0, LONG) for n in range(20)}},
    "reasons": {"fallbacks": {f"reason {n} {LONG[: 100 + n]}": n for n in range(5000)}},
    "long reasons": {"fallbacks": {LONG + str(n): n for n in range(20)}},
    "stale names": {"stale": {f"place {n}": ["a name"] * 100 for n in range(5000)}},
    "a long verdict": {"reason": LONG * 9, "targets": {"rotary_embedding": f"failed: {LONG}"}},
    "all of it": {
        "signatures": {f"neox {n}": signature("native", n, LONG, **{LONG: 1}) for n in range(50)},
        "fallbacks": {LONG + str(n): n for n in range(50)},
        "reason": LONG,
    },
}


@pytest.mark.parametrize("status", MUCH.values(), ids=MUCH)
def test_a_report_of_any_size_is_written_so_that_it_is_read(tmp_path: Path, status: dict[str, Any]) -> None:
    mine = reporting(**status)
    before = copy.deepcopy(mine)
    report_folder.write(str(tmp_path), mine)
    assert mine == before, "status() is whole"
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size <= fitting.LARGEST
    (report,), wrong = report_folder.read(str(tmp_path))
    assert not wrong
    assert len(report["status"]["signatures"]) + report["left_out"] == len(before["status"]["signatures"])


def test_the_signatures_that_matter_most_are_kept() -> None:
    calls = {f"neox {n}": signature(calls=n) for n in range(3000)}
    handed_back = {"handed back": signature(calls=1, gradients=10_000)}
    native = {
        "wrong": signature("native", 0, "first-use check failed"),
        "not run": signature("native", 0, "not run yet"),
    }
    kept = json.loads(fitting.text_of(reporting(signatures=calls | handed_back | native)))
    names = list(kept["status"]["signatures"])
    number = len(names) - 3
    assert number > 100
    assert names == ["wrong", "not run", "handed back", *(f"neox {n}" for n in range(2999, 2999 - number, -1))]
    assert kept["left_out"] == 3000 - number


def test_a_report_of_usual_size_is_whole() -> None:
    mine = reporting(signatures={f"neox {n}": signature() for n in range(500)}, reason="r" * 5000)
    assert json.loads(fitting.text_of(mine)) == mine
