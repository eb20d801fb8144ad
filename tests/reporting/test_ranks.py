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
    assert "rank 0, this one" in here.words
    assert "rank 1" in here.words
    assert "rank 1, this one" in there.words
    assert named in here.words
    assert named in there.words


WRAPPED = {"targets": {"rotary_embedding": "applied; wrapped by another"}}


@pytest.mark.parametrize(
    "other",
    [{}, UNDECIDED, {"signatures": {}}, WRAPPED],
    ids=["equal", "undecided", "no signature yet", "wrapped by someone"],
)
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
    assert "rank 3 (process 1003 on elsewhere)" in message.words
    assert report_folder.living(str(tmp_path), known) == found
    assert len(opened) == 4, "files that have not changed are not read again"
    monkeypatch.undo()
    everything, _ = report_folder.read(str(tmp_path))
    assert sorted(one["process"]["rank"] for one in everything if report_folder.is_live(one)) == [0, 3]


# What lasts

DEAD_SURE = ranks.LASTING + 1


def looks(watch: ranks.Watch, *at: tuple[float, Any, Any, float]) -> list[list[str]]:
    """The warnings of each look: when, this rank's report, the other's, and the last touch of that."""
    return [watch.look(mine, [theirs | {"heartbeat": beat}], when) for when, mine, theirs, beat in at]


def switched(rank: int, times: int, **status: Any) -> Any:
    report = of(rank, **status)
    report["process"]["switched"] = times
    return report


@pytest.mark.parametrize("other", [OFF, INCAPABLE, DISABLED, RETIRED], ids=["off", "incapable", "disabled", "retired"])
def test_what_lasts_is_told_once_each_time_it_begins(other: Any) -> None:
    mine, same, differs = of(0), of(1), of(1, **other)
    lasting = [(at, mine, differs, at) for at in (0, 1, 2, DEAD_SURE)]
    watch = ranks.Watch()
    for _ in range(2):  # a second time, after they agreed
        *early, (told,) = looks(watch, *lasting)
        assert early == [[], [], []]
        assert "rank 0, this one" in told
        assert looks(watch, (20, mine, differs, 6), (40, mine, differs, 8), (60, mine, same, 10)) == [[], [], []]


def test_what_is_switched_together_is_not_told_however_late_the_other_reports() -> None:
    """Its first touch after that may be for what it saw before."""
    on, off, late = of(0), of(0, **DISABLED), of(1)
    for touched in 0, 2:
        later = (DEAD_SURE, off, late, touched), (10 * DEAD_SURE, off, late, touched)
        watch = ranks.Watch()
        assert not any(looks(watch, (-1, on, late, -1), (0, off, late, 0), *later))
        assert not any(looks(watch, (11 * DEAD_SURE, off, of(1, **DISABLED), 3)))


def test_ranks_that_are_switched_in_step_with_the_looks_are_not_told() -> None:
    """Each look finds this rank on and the other one's report of being off."""
    steps = ((2.0 * n, switched(0, n), switched(1, n, **DISABLED), 2.0 * n) for n in range(20))
    assert not any(looks(ranks.Watch(), *steps))


def test_a_rank_that_cannot_be_read_for_a_while_is_not_told_again() -> None:
    mine, other = of(0), of(1, **DISABLED)
    watch = ranks.Watch()
    assert any(looks(watch, *((2.0 * n, mine, other, n) for n in range(9))))
    assert watch.look(mine, [], 20) == []
    assert not any(looks(watch, *((30 + 2.0 * n, mine, other, 30 + n) for n in range(9))))


# A rank of two with the same meeting address, without torch.
ALONE = """
import logging, os, sys, time, types
logging.basicConfig()
import rope_target, rope_patch
from rope_patch.reporting import keeper, process, ranks
keeper.SECONDS, keeper.PULSE, ranks.LASTING = 0.05, 0.1, 0.4
def meet(rank):
    met = types.SimpleNamespace(_get_default_store=lambda: types.SimpleNamespace(host="10.0.0.1", port=29500))
    ranks = {"is_initialized": lambda: True, "get_rank": lambda: rank, "get_world_size": lambda: 2}
    sys.modules["torch.distributed"] = types.SimpleNamespace(**ranks, distributed_c10d=met)
    import vllm.model_executor.layers.rotary_embedding.base
"""


@pytest.mark.parametrize("there", ["gone", "on another host"])
def test_a_rank_restarted_at_the_same_address_does_not_warn_of_ranks_that_are_gone(
    with_doubles: Run, tmp_path: Path, there: str
) -> None:
    other = of(1, **OFF)
    other["process"].update({"pid": 2**22 + 1} if there == "gone" else {"host": "elsewhere"}, engine="10.0.0.1:29500")
    report_folder.write(str(tmp_path), other)
    (file,) = tmp_path.iterdir()
    code = f"""{ALONE}
looked, look = [], ranks.Watch.look
ranks.Watch.look = lambda *arguments: looked.append(look(*arguments)) or looked[-1]
meet(0)
began = time.monotonic()
while time.monotonic() - began < 1 or len(looked) < 9:
    os.utime({str(file)!r}, (time.time() + {AN_HOUR},) * 2)
    time.sleep(0.05)
"""
    printed = with_doubles(code, VLLM_ASCEND_TRITON_ROPE_REPORT=str(tmp_path))
    assert printed.count("ranks disagree: rank 0, this one") == (there != "gone")


def test_two_ranks_warn_of_what_lasts_and_not_of_being_switched_together(with_doubles: Run, tmp_path: Path) -> None:
    code = f"""{ALONE}
import socket
ends = socket.socketpair()
rank = 0 if (child := os.fork()) else 1
def together():
    ends[rank].send(b".")
    assert ends[rank].recv(1)
said, found, disagreements = [], [], ranks.disagreements
logging.getLogger("vllm.rope_patch").addHandler(handler := logging.Handler(logging.WARNING))
handler.emit = lambda record: said.append(record.getMessage())
def kept(mine, others):
    found[:] = [disagreements(mine, others), len(others)]
    return found[0]
ranks.disagreements = kept
def wait(condition):
    while not condition():
        time.sleep(0.02)
    together()
meet(rank)
wait(lambda: found[1:] == [2])
for time_ in range(12):
    (rope_patch.enable if time_ % 2 else rope_patch.disable)()
    time.sleep(0.13)
    together()
assert said == [], said
for again in 1, 2:
    if rank:
        rope_patch.disable()
    wait(lambda: len(said) == again)
    if rank:
        rope_patch.enable()
    wait(lambda: found[0] == [])
assert len(said) == 2 and all("disagree: rank %d, this one" % rank in words for words in said), said
if rank:
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    printed = with_doubles(code, VLLM_ASCEND_TRITON_ROPE_REPORT=str(tmp_path))
    assert printed.splitlines()[-1] == "0", printed


RANK = """
import logging, os, sys, time
logging.basicConfig()
import rope_target, rope_patch
from rope_patch.reporting import keeper, ranks
keeper.SECONDS, keeper.PULSE, ranks.LASTING = 0.1, 0.2, 0.5
compared, told, look = [], [], ranks.Watch.look
def counted(watch, mine, others, now):
    found = look(watch, mine, others, now)
    if {{other["process"]["rank"] for other in others if ranks.decision(other["status"])}} >= {{0, 1}}:
        compared.append(now)
        told.extend(found)
    return found
ranks.Watch.look = counted
import vllm.model_executor.layers.rotary_embedding.base
import torch.distributed as distributed
distributed.init_process_group("gloo", init_method="{method}", rank={rank}, world_size=2)
while len(compared) < 9 or compared[-1] - compared[0] < 1 or len(told) < {told}:
    time.sleep(0.05)
distributed.barrier()
"""


def ranks_of_an_engine(with_doubles: Run, folder: Path, method: str, settings: tuple[str, str]) -> list[str]:
    """What two real torch.distributed ranks printed."""

    def run(rank: int) -> str:
        code = RANK.format(method=method, rank=rank, told=int(settings[0] != settings[1]))
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
