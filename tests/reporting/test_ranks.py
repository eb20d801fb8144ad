"""Ranks of one engine that decided differently warn, each naming the others."""

import copy
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import rope_patch
from rope_patch.reporting import ranks, report_folder
from tests.conftest import Run

NAME = "neox bfloat16 heads 4/2 npu:"


def of(rank: int, **status: Any) -> Any:
    """The report of a rank that is patched and has one signature; ``status`` overrides fields of its status."""
    report = copy.deepcopy(report_folder.current(rope_patch.status()))
    report["process"].update(rank=rank, engine="127.0.0.1:29500", pid=1000 + rank)
    entry = {"path": "kernel", "check": "passed", "plans": [], "calls": 1, "fallbacks": {}}
    defaults = {"mode": "on", "enabled": True, "capable": True, "targets": {"rotary_embedding": "applied"}}
    report["status"].update(defaults | {"signatures": {f"{NAME}{rank}": entry}} | status)
    return report


AN_HOUR = 3600.0  # how far another host's clock is ahead, so that its report is new on a slow machine too


def touched(folder: Path, pid: int, seconds: float) -> None:
    """Set the time of the report of process ``pid`` on another host to ``seconds`` from now."""
    (file,) = folder.glob(f"elsewhere-{pid}-*.json")
    at = time.time() + seconds
    os.utime(file, (at, at))


OFF = {"mode": "off", "capable": None, "reason": "switched off by VLLM_ASCEND_TRITON_ROPE=0"}
INCAPABLE = {"capable": False, "reason": "triton: no ascend backend", "targets": {"rotary_embedding": "native"}}
DISABLED = {"enabled": False, "targets": {"rotary_embedding": "taken back"}}
FAILED = {"path": "native", "check": "first-use check failed", "plans": [], "calls": 0, "fallbacks": {}}
RETIRED = {"signatures": {f"{NAME}1": FAILED}}
UNDECIDED = {"capable": None, "targets": {"rotary_embedding": "not imported"}, "signatures": {}}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (OFF, "switched off by"),
        (INCAPABLE, "no ascend backend"),
        (DISABLED, "disabled"),
        (RETIRED, "first-use check failed"),
    ],
)
def test_each_of_two_ranks_that_differ_names_the_other_and_its_reason(other: Any, named: str) -> None:
    mine, theirs = of(0), of(1, **other)
    (here,) = ranks.disagreements(mine, [mine, theirs])
    (there,) = ranks.disagreements(theirs, [mine, theirs])
    assert "rank 0, this one" in here
    assert "rank 1" in here
    assert "rank 1, this one" in there
    assert named in here
    assert named in there


@pytest.mark.parametrize("other", [{}, UNDECIDED, {"signatures": {}}], ids=["equal", "undecided", "no signature yet"])
def test_equal_or_undecided_ranks_are_silent(other: Any) -> None:
    assert not ranks.disagreements(of(0), [of(0), of(1, **other)])


def test_other_engines_and_processes_without_an_engine_are_not_compared() -> None:
    other = of(1, **OFF)
    other["process"]["engine"] = "127.0.0.1:29501"
    assert not ranks.disagreements(of(0), [other])
    other["process"]["engine"] = None
    assert not ranks.disagreements(other, [of(0)])


def test_only_living_processes_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart at the same address, the reports of the ranks before the restart are still there."""
    mine = of(0)
    mine["process"]["pid"] = os.getpid()
    dead, silent, foreign = (of(rank, **OFF) for rank in (1, 2, 3))
    dead["process"]["pid"] = 2**22 + 1
    for report in silent, foreign:
        report["process"].update(host="elsewhere", started="1")
    for report in mine, dead, silent, foreign:
        report_folder.write(str(tmp_path), report)
    touched(tmp_path, 1002, -report_folder.SILENT)
    touched(tmp_path, 1003, AN_HOUR)
    opened: list[Any] = []
    real = os.open

    def counted(path: Any, *rest: Any, **more: Any) -> int:
        opened.append(path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", counted)
    known: Any = {}
    found = report_folder.living(str(tmp_path), known)
    assert sorted(report["process"]["rank"] for report in found) == [0, 3]
    assert len(opened) == 3, "the folder, and two files"
    (message,) = ranks.disagreements(mine, found)
    assert "rank 3 (process 1003 on elsewhere)" in message
    assert report_folder.living(str(tmp_path), known) == found
    assert len(opened) == 4, "files that have not changed are not read again"
    monkeypatch.undo()
    everything, _ = report_folder.read(str(tmp_path))
    assert sorted(one["process"]["rank"] for one in everything if report_folder.is_live(one)) == [0, 3]


# One of two ranks with the same meeting address as in ``of``, without torch.
ALONE = """
import sys, types
import rope_target, rope_patch
met = types.SimpleNamespace(_get_default_store=lambda: types.SimpleNamespace(host="127.0.0.1", port=29500))
ranks = {"is_initialized": lambda: True, "get_rank": lambda: 0, "get_world_size": lambda: 2, "distributed_c10d": met}
sys.modules["torch.distributed"] = types.SimpleNamespace(**ranks)
import vllm.model_executor.layers.rotary_embedding.base
"""


@pytest.mark.parametrize("there", ["gone", "on another host"])
def test_a_rank_restarted_at_the_same_address_does_not_warn_of_ranks_that_are_gone(
    with_doubles: Run, tmp_path: Path, there: str
) -> None:
    """Each process compares at least once, when it ends."""
    other = of(1, **OFF)
    other["process"].update({"pid": 2**22 + 1} if there == "gone" else {"host": "elsewhere"})
    report_folder.write(str(tmp_path), other)
    if there != "gone":
        touched(tmp_path, 1001, AN_HOUR)
    printed = with_doubles(ALONE, VLLM_ASCEND_TRITON_ROPE_REPORT=str(tmp_path))
    assert printed.count("ranks disagree: rank 0, this one") == (there != "gone")


RANK = """
import logging, os, sys, time
logging.basicConfig()
import rope_target, rope_patch
from rope_patch.reporting import ranks, report_folder
report_folder.SECONDS = 0.1
compared, disagreements = [], ranks.disagreements
def counted(mine, others):
    found = disagreements(mine, others)
    if {{other["process"]["rank"] for other in others if ranks.decision(other["status"])}} >= {{0, 1}}:
        compared.append(found)
    return found
ranks.disagreements = counted
import vllm.model_executor.layers.rotary_embedding.base
import torch.distributed as distributed
distributed.init_process_group("gloo", init_method="{method}", rank={rank}, world_size=2)
while len(compared) < 3:  # counts comparisons with the other rank after both decided
    time.sleep(0.05)
distributed.barrier()
"""


def ranks_of_an_engine(with_doubles: Run, folder: Path, method: str, settings: tuple[str, str]) -> list[str]:
    """What two real torch.distributed ranks printed."""

    def run(rank: int) -> str:
        code = RANK.format(method=method, rank=rank)
        environment = {"VLLM_ASCEND_TRITON_ROPE_REPORT": str(folder), "VLLM_ASCEND_TRITON_ROPE": settings[rank]}
        return with_doubles(code, **environment)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1)))


@pytest.mark.parametrize("method", ["tcp", "file"])
@pytest.mark.parametrize("settings", [("1", "0"), ("1", "1")], ids=["one switched off", "both on"])
def test_real_ranks_find_each_other_by_the_address_or_file_where_they_met(
    with_doubles: Run, tmp_path: Path, settings: tuple[str, str], method: str
) -> None:
    """vLLM's ranks meet at an address on several hosts, in a file on one."""
    pytest.importorskip("torch", reason="needs torch.distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"file://{tmp_path}/store" if method == "file" else f"tcp://127.0.0.1:{port}"
    first, second = ranks_of_an_engine(with_doubles, tmp_path / "reports", where, settings)
    assert first.count("ranks disagree: rank 0, this one") == (settings[0] != settings[1])
    assert second.count("ranks disagree: rank 1, this one") == (settings[0] != settings[1])
    reports, _ = report_folder.read(str(tmp_path / "reports"))
    assert sorted(report["process"]["rank"] for report in reports) == [0, 1]  # type: ignore[type-var]
    (engine,) = {report["process"]["engine"] for report in reports}
    assert engine
