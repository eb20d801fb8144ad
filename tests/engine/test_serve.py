"""``vllm serve`` with the patch: every process reports, under load and with faults, and no request fails.

Four servers, each started once: one that compiles, under load; the same switched off, for the tokens that are right;
two tensor-parallel workers, eager and spawned, in which kernels and the report folder are broken while they serve,
until one is killed; and those started again. All but the third fork, which saves the imports.
"""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs the real vLLM")

from rope_patch.cli import main
from rope_patch.reporting import keeper, report_folder
from tests.engine import models
from tests.engine.server import NEW_TOKENS, Server, reported, serving, settled

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

REQUESTS, WARM_UP, CONCURRENCY = 200, 60, 16
_random = random.Random(0)
PROMPTS = [[_random.randrange(5, 500) for _ in range(_random.randint(1, 60))] for _ in range(REQUESTS)]
# The CPU platform demands spawned workers; the test platform has the engine fork them, as other platforms do.
FORKING = {"ROPE_PATCH_TEST_START_METHOD": "fork", "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
COMPILED = (
    '{"custom_ops": ["none", "+rotary_embedding"], "pass_config": {"fuse_norm_quant": false, "fuse_act_quant": false}}'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return models.make("llama3", folder)


def announced(server: Server) -> Counter[int]:
    """How many INFO lines each process has in the log, by process id."""
    said = r"pid=(\d+)\).* INFO .*\[announcement\.py:\d+\] rope_patch .* applied \("
    lines = re.findall(said, server.log.read_text())
    return Counter(map(int, lines))


def resident(pid: int) -> int:
    """The private memory of a process, in KiB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1])


class Load:
    """The results of ``REQUESTS`` requests."""

    def __init__(self, server: Server) -> None:
        (worker,) = reported(server, bool)
        warm_up = server.many(PROMPTS[:WARM_UP], CONCURRENCY)
        before = resident(worker["process"]["pid"])
        self.tokens = warm_up + server.many(PROMPTS[WARM_UP:], CONCURRENCY)
        self.grown = resident(worker["process"]["pid"]) - before
        (self.worker,) = settled(server)
        self.log = server.log.read_text()


@pytest.fixture(scope="module")
def loaded(folder: Path, model: Path) -> Load:
    with serving(model, folder, "compiled", "--compilation-config", COMPILED, **FORKING) as server:
        return Load(server)


@pytest.fixture(scope="module")
def loaded_natively(folder: Path, model: Path, loaded: Load) -> Load:
    """Runs with the compile cache that the patched server left. vLLM refuses variables that it does not know."""
    off = FORKING | {"VLLM_ASCEND_TRITON_ROPE": "0"}
    arguments = "--compilation-config", COMPILED, "--fail-on-environ-validation"
    with serving(model, folder, "native", *arguments, **off) as server:
        return Load(server)


def test_under_load_every_request_gets_the_tokens_that_it_gets_unpatched(loaded: Load, loaded_natively: Load) -> None:
    assert len(loaded.tokens) == REQUESTS
    assert loaded_natively.worker["status"]["mode"] == "off"
    assert "off: switched off by VLLM_ASCEND_TRITON_ROPE=0; vLLM serves natively" in loaded_natively.log
    assert "Unknown vLLM environment variable" not in loaded_natively.log
    differing = [n for n in range(REQUESTS) if loaded.tokens[n] != loaded_natively.tokens[n]]
    assert not differing


def test_under_load_the_kernel_serves_every_call(loaded: Load) -> None:
    status = loaded.worker["status"]
    assert status["calls"]["op"] > 2 * REQUESTS * NEW_TOKENS / CONCURRENCY  # two layers
    assert status["fallbacks"] == {}
    assert {entry["check"] for entry in status["signatures"].values()} == {"passed"}


def test_after_warm_up_memory_grows_no_more_than_unpatched(loaded: Load, loaded_natively: Load) -> None:
    """vLLM and torch alone grow by tens of MiB during these requests."""
    grown = f"{loaded.grown} KiB, unpatched by {loaded_natively.grown} KiB"
    print(f"in {REQUESTS - WARM_UP} requests the worker grew by {grown}")
    assert loaded.grown < loaded_natively.grown + 32 * 1024


@pytest.fixture(scope="module")
def faulty(folder: Path, model: Path) -> Iterator[tuple[Server, Path]]:
    """A server with two workers, and the folder whose files break their kernels."""
    faults = folder / "faults"
    faults.mkdir()
    arguments = ("--enforce-eager", "--tensor-parallel-size", "2")
    with serving(model, folder, "faulty", *arguments, ROPE_PATCH_TEST_FAULTS=str(faults)) as server:
        yield server, faults


# These tests run in this order on one server, since a worker keeps the faults that it met.


def test_server_core_and_both_workers_report_their_roles_and_ranks(
    faulty: tuple[Server, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server, faults = faulty
    assert len(server.tokens(PROMPTS[0], number=1)) == 1
    workers = reported(server, lambda found: len(found) == 2 and all(one["status"]["calls"] for one in found))
    assert sorted(one["process"]["rank"] for one in workers) == [0, 1]
    (engine,) = {one["process"]["engine"] for one in workers}
    assert engine, "ranks cannot find each other"
    pids = {one["process"]["pid"] for one in workers}
    assert all((faults / f"started-{pid}").exists() for pid in pids), "spawned"
    assert announced(server) == dict.fromkeys(pids, 1)
    assert main(["status", str(server.reports)]) == 0
    shown = capsys.readouterr().out
    for role in ("API server", "engine core", "worker", "0 of 2", "1 of 2", "patched (rotary_embedding, "):
        assert role in shown


def said(server: Server, words: str) -> int:
    """How many lines of the log contain all of them."""
    return sum(words in line for line in server.log.read_text().splitlines())


@pytest.mark.parametrize(("fault", "words"), [("full", "No space left on device"), ("readonly", "Read-only file")])
def test_a_report_folder_that_is_full_or_read_only_harms_no_request_and_no_count_is_lost(
    faulty: tuple[Server, Path], loaded_natively: Load, fault: str, words: str
) -> None:
    server, faults = faulty
    before = {one["process"]["rank"]: one["status"]["calls"]["eager"] for one in settled(server)}
    files = {path: path.read_bytes() for path in server.reports.iterdir()}
    (faults / fault).touch()
    try:
        # Prompts only, so that decoding, which rotates in place, is a new signature in the next test.
        tokens = [server.tokens(PROMPTS[0], number=1) for _ in range(2)]
        while said(server, words) < 2:
            assert server.process.poll() is None
            time.sleep(0.2)
        time.sleep(
            2 * keeper.SECONDS
        )  # time for more attempts; on a slow machine there are fewer, and the test shows less
        assert said(server, words) == 2, "once in each of two workers"
        assert {path: path.read_bytes() for path in server.reports.iterdir()} == files, (
            "neither half a report nor remains"
        )
    finally:
        (faults / fault).unlink()
    assert tokens == [loaded_natively.tokens[0][:1]] * 2
    expected = {rank: count + 2 * 2 for rank, count in before.items()}  # two requests, two layers
    reported(server, lambda found: {o["process"]["rank"]: o["status"]["calls"]["eager"] for o in found} == expected)


def test_a_wrong_kernel_for_a_new_shape_in_one_rank_is_rejected_and_both_ranks_say_that_they_differ(
    faulty: tuple[Server, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Decoding one token rotates in place, which is a new signature here."""
    server, faults = faulty
    (faults / "wrong").write_text("1")
    assert len(server.tokens(PROMPTS[0])) == NEW_TOKENS
    (faults / "wrong").unlink()
    first, second = sorted(
        reported(server, lambda found: all(len(one["status"]["signatures"]) > 1 for one in found)),
        key=lambda one: one["process"]["rank"],
    )
    assert {entry["path"] for entry in first["status"]["signatures"].values()} == {"kernel"}
    (retired,) = (entry for entry in second["status"]["signatures"].values() if entry["path"] == "native")
    assert retired["check"].startswith("first-use check failed")
    assert sum(retired["fallbacks"].values()) > 0
    for rank in 0, 1:
        while not re.search(rf"ranks disagree about .*rank {rank}, this one", server.log.read_text()):
            assert server.process.poll() is None
            time.sleep(0.2)
    assert main(["status", str(server.reports)]) == 1
    assert "ranks disagree" in capsys.readouterr().out


def test_kernels_that_stop_starting_are_retired_and_requests_go_on(
    faulty: tuple[Server, Path], loaded_natively: Load
) -> None:
    server, faults = faulty
    (faults / "fails").touch()
    tokens = server.many(PROMPTS[:8], 4)
    (faults / "fails").unlink()
    assert tokens == loaded_natively.tokens[:8]
    for worker in reported(server, lambda found: all("ub overflow" in str(one["status"]) for one in found)):
        # Kernels that none of these requests used are not retired: that for a single token, say, if all were batched.
        checks = [entry["check"] for entry in worker["status"]["signatures"].values() if entry["path"] == "native"]
        assert any("ub overflow" in check for check in checks)
        assert "ub overflow" in str(worker["status"]["fallbacks"])
    assert server.tokens(PROMPTS[0]) == tokens[0], "retired kernels stay retired"


def put_a_file_there(folder: Path) -> None:
    """Instead of the folder, which a worker may make again meanwhile."""
    for number in itertools.count():
        folder.rename(folder.with_name(f"gone-{number}"))
        with contextlib.suppress(FileExistsError):
            folder.open("x").close()
            return


def test_a_report_folder_that_goes_away_harms_no_request_and_comes_back(faulty: tuple[Server, Path]) -> None:
    server, _ = faulty
    put_a_file_there(server.reports)
    while said(server, "Not a directory") < 2:  # in both workers
        assert server.process.poll() is None
        time.sleep(0.2)
    assert len(server.many(PROMPTS[:4], 4)) == 4
    server.reports.unlink()
    server.tokens(PROMPTS[0])
    assert len(reported(server, lambda found: len(found) == 2)) == 2


def test_the_status_shows_a_killed_worker_as_gone(
    faulty: tuple[Server, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server, _ = faulty
    killed = reported(server, lambda found: len(found) == 2)[1]["process"]["pid"]
    os.kill(killed, signal.SIGKILL)
    server.process.wait()
    assert main(["status", str(server.reports)]) == 1
    shown = capsys.readouterr().out
    assert "gone" in shown
    assert "no live process" in shown


def test_a_restart_with_the_same_folder_and_forked_workers_works_as_the_first_start(
    faulty: tuple[Server, Path], folder: Path, model: Path, loaded_natively: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    killed, faults = faulty
    old = {one["process"]["pid"] for one in report_folder.read(str(killed.reports))[0]}
    arguments = ("--enforce-eager", "--tensor-parallel-size", "2")
    with serving(model, folder, "again", *arguments, ROPE_PATCH_TEST_FAULTS=str(faults), **FORKING) as server:
        assert server.many(PROMPTS[:8], 4) == loaded_natively.tokens[:8]
        workers = reported(server, lambda found: len(found) == 2 and all(one["status"]["calls"] for one in found))
        pids = {one["process"]["pid"] for one in workers}
        assert not any((faults / f"started-{pid}").exists() for pid in pids), "forked"
        assert [announced(server)[pid] for pid in pids] == [1, 1]
        assert set(announced(server).values()) == {1}
        assert main(["status", "--json", str(server.reports)]) == 0
        processes = json.loads(capsys.readouterr().out)["processes"]
    lives = {one["process"]["pid"]: one["life"] for one in processes}
    assert {pid for pid, life in lives.items() if life == "gone"} == old
    live = [one for one in processes if one["life"] == "live"]
    assert {one["process"]["role"] for one in live} == {"API server", "engine core", "worker"}
    assert {one["status"]["targets"]["rotary_embedding"] for one in live if one["process"]["role"] == "worker"} == {
        "applied"
    }
    assert all(one["status"]["fallbacks"] == {} for one in live), "what the killed ones met is not theirs"
