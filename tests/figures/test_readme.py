"""The figures in the READMEs are those of the stored runs."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.bench_gpu import multimodal, report
from tests.conftest import ROOT

STORED = ROOT / "scripts" / "bench_gpu" / "results.json"


def stored() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(STORED.read_text())
    return results


def table(readme: str, head: str) -> list[str]:
    """The rows of the README's table that has this head."""
    lines = (ROOT / readme).read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(head)) + 2
    return list(itertools.takewhile(lambda line: line.startswith("|"), lines[begin:]))


def test_the_table_measured_on_a_gpu_is_that_of_the_stored_run() -> None:
    assert table("scripts/bench_gpu/README.md", "| q/kv heads, head size, rotary dim |") == report.readme_rows(stored())


FASTER = "the kernel was faster than every one of these peers"


def test_the_readme_says_that_the_kernel_was_always_faster_if_it_was() -> None:
    """In place compared with the in-place peers, fresh outputs with the functional ones."""
    us: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in stored()["rows"]:
        us.setdefault((row["shape"], row["dtype"], row["tokens"]), {})[row["peer"]] = row["us"]
    slower = [
        (case, peer)
        for case, by_peer in us.items()
        for peer, taken in by_peer.items()
        if not peer.startswith("rope_patch")
        and taken <= by_peer[report.IN_PLACE[0] if peer in report.IN_PLACE else report.FRESH[0]]
    ]
    text = (ROOT / "scripts" / "bench_gpu" / "README.md").read_text()
    assert (FASTER in text) == (not slower), slower
    peers = [peer for by_peer in us.values() for peer in by_peer if not peer.startswith("rope_patch")]
    assert f"{len(peers)} comparisons, {peers.count('vLLM native')} of them with vLLM's PyTorch code" in text


def test_the_table_of_three_positions_a_token_is_that_of_the_stored_run() -> None:
    results = json.loads(STORED.with_name("multimodal.json").read_text())
    readme = "scripts/bench_gpu/README.md"
    assert table(readme, "| model | tokens |") == multimodal.table(results)[2:]
    found = multimodal.comparisons(results)
    text = (ROOT / readme).read_text()
    assert (f"faster than both in every one of the {len(found)} comparisons" in text) == (found[0][0] > 1), found[0]
    assert f"the closest is {found[0][0]:.2f} ({found[0][1]})" in text


@pytest.mark.parametrize(("relative_error", "marked"), [(0.0, False), (0.003, False), (0.7, True), (1.4, True)])
def test_a_wrong_result_is_marked_and_a_rounded_one_is_not(relative_error: float, marked: bool) -> None:
    """bfloat16 arithmetic errs by up to 0.003 of the result's norm, a defect by about 1."""
    assert report.cell({"us": 12.3, "relative_error": relative_error}).endswith("!") == marked


def test_the_modelled_table_is_that_of_the_stored_run() -> None:
    from scripts.model_ascend.report import readme_rows

    rows = readme_rows(json.loads((ROOT / "scripts" / "model_ascend" / "results.json").read_text()))
    assert table("scripts/model_ascend/README.md", "| query/key heads, head size, rotary dim |") == rows


ROOMS = ("bench_gpu", "model_ascend")
RUNS = [
    (path.parent / "README.md", json.loads(path.read_text())["date"])
    for room in ROOMS
    for path in sorted((ROOT / "scripts" / room).glob("*.json"))
]


@pytest.mark.parametrize(("readme", "date"), RUNS, ids=[f"{path.parent.name} {date}" for path, date in RUNS])
def test_a_run_that_is_kept_is_dated_where_its_figures_are(readme: Path, date: str) -> None:
    assert date in readme.read_text()


def test_the_small_table_is_that_of_both_stored_runs() -> None:
    from scripts.pictures import table as small

    assert table("scripts/README.md", "| query/kv heads, rotary dim |") == small.rows()
    measured, modelled = (json.loads((ROOT / "scripts" / room / "results.json").read_text())["date"] for room in ROOMS)
    assert f"(measured {measured}, modelled {modelled})" in (ROOT / "scripts" / "README.md").read_text()


def test_the_modelled_table_of_three_positions_is_that_of_the_stored_run() -> None:
    from scripts.model_ascend.report import multimodal_rows

    rows = multimodal_rows(json.loads((ROOT / "scripts" / "model_ascend" / "multimodal.json").read_text()))
    head = "| query/key heads, head size, rotary dim | 1 token | 64 | 512 | 8,192 | in parts"
    assert table("scripts/model_ascend/README.md", head) == rows
