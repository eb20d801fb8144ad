"""The figures that READMEs print are those of the runs that are kept."""

import itertools
import json
from typing import Any

from scripts.bench_gpu import report
from tests.conftest import ROOT

KEPT = ROOT / "scripts" / "bench_gpu" / "results.json"


def kept() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(KEPT.read_text())
    return results


def table(readme: str, head: str) -> list[str]:
    """The lines below that head."""
    lines = (ROOT / readme).read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(head)) + 2
    return list(itertools.takewhile(lambda line: line.startswith("|"), lines[begin:]))


def test_the_table_measured_on_a_gpu_is_that_of_the_kept_run() -> None:
    assert table("scripts/bench_gpu/README.md", "| q/kv heads, head size, rotary dim |") == report.readme_rows(kept())


def test_the_kernel_was_faster_than_every_peer_in_every_case_of_the_kept_run() -> None:
    """In place against the in-place peers, fresh outputs against the functional ones."""
    us: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in kept()["rows"]:
        us.setdefault((row["shape"], row["dtype"], row["tokens"]), {})[row["peer"]] = row["us"]
    for case, by_peer in us.items():
        for peer, taken in by_peer.items():
            if not peer.startswith("rope_patch"):
                ours = by_peer[report.IN_PLACE[0] if peer in report.IN_PLACE else report.FRESH[0]]
                assert ours < taken, (case, peer)


def test_a_wrong_result_is_marked_and_a_rounded_one_is_not() -> None:
    wrong = {row["peer"] for row in kept()["rows"] if report.cell(row).endswith("!")}
    assert wrong == {"vllm-ascend 0.23.0"}
    marked = {row["shape"] for row in kept()["rows"] if report.cell(row).endswith("!")}
    assert marked == {"GLM-5.2 draft", "Phi-3-mini"}, "those whose rotary dims are not powers of two"


def test_the_modelled_table_is_that_of_the_kept_run() -> None:
    from scripts.model_ascend.report import readme_rows

    rows = readme_rows(json.loads((ROOT / "scripts" / "model_ascend" / "results.json").read_text()))
    assert table("scripts/model_ascend/README.md", "| query/key heads, head size, rotary dim |") == rows


def test_the_small_table_is_that_of_both_kept_runs() -> None:
    from scripts import figures

    assert table("README.md", "| query/kv heads, rotary dim |") == figures.rows()
