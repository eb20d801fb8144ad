"""``vllm serve`` on vllm-ascend 0.23.0: two tensor-parallel workers with the patch, and one worker switched off.

Each server is started once, by ``rope-patch run``, and gets requests over HTTP; engine core and workers are processes
of their own, spawned by the first and forked by the second. On one release: what differs between releases is who
rotates, which ``test_engine_tokens.py`` shows.
"""

import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rope_patch.cli import main
from tests.ascend_stack import tiny
from tests.ascend_stack.engine_process import needs_engine, newest_only
from tests.conftest import ROOT
from tests.engine import models
from tests.engine.server import NEW_TOKENS, Engine, serving, settled

pytestmark = [
    needs_engine,
    newest_only("on one release"),
    pytest.mark.timeout(1800),
]

REQUESTS, CONCURRENCY = 50, 4
LAYERS = 2
_random = random.Random(0)
PROMPTS = [[_random.randrange(5, 500) for _ in range(_random.randint(1, 60))] for _ in range(REQUESTS)]


def on_ascend(folder: Path) -> Engine:
    """This process's stack. Each process of the server is prepared by ``serving/sitecustomize.py``."""
    variables = {
        "TRITON_INTERPRET": "0",
        "HOST_CANN_DEVICES": "2",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "ROPE_PATCH_TEST_STARTED": str(folder),
        "PYTHONPATH": f"{ROOT / 'tests' / 'ascend_stack' / 'serving'}:{ROOT}",
    }
    vllm = (sys.executable, "-m", "vllm.entrypoints.cli.main")
    return [sys.executable, "-m", "rope_patch", "run", "--", *vllm], variables


@dataclass
class Served:
    """What a server answered, and what its processes reported after its last request, while it ran."""

    tokens: list[list[int]]
    workers: list[Any]
    live: list[str]  # the lines of ``rope-patch status`` on live processes; short-lived forks looked at a model's class
    exit_status: int
    spawned: list[bool]  # of each worker: whether it is an interpreter that started, not a fork


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    path = tiny.make("GLM-4", folder)
    models.tokenizer().save_pretrained(path)
    return path


def served(model: Path, folder: Path, name: str, *arguments: str, **environment: str) -> Served:
    own = folder / name
    own.mkdir()
    with serving(model, own, name, "--enforce-eager", *arguments, on=on_ascend, **environment) as server:
        tokens = server.many(PROMPTS, CONCURRENCY)
        workers = sorted(settled(server), key=lambda one: one["process"]["rank"])
        with pytest.MonkeyPatch.context() as patch:
            said: list[str] = []
            patch.setattr(sys.stdout, "write", said.append)
            exit_status = main(["status", str(server.reports)])
        live = [line for line in "".join(said).splitlines() if " live " in line]
        spawned = [(own / f"started-{one['process']['pid']}").exists() for one in workers]
        return Served(tokens, workers, live, exit_status, spawned)


@pytest.fixture(scope="module")
def patched(model: Path, folder: Path) -> Served:
    return served(model, folder, "patched", "--tensor-parallel-size", "2")


@pytest.fixture(scope="module")
def off(model: Path, folder: Path) -> Served:
    variables = {"VLLM_ASCEND_TRITON_ROPE": "0", "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
    arguments = "--distributed-executor-backend", "mp", "--fail-on-environ-validation"
    return served(model, folder, "off", *arguments, **variables)


def test_every_request_gets_the_tokens_that_it_gets_switched_off(patched: Served, off: Served) -> None:
    assert len({tuple(tokens) for tokens in patched.tokens}) > REQUESTS / 2, "prompts matter"
    differing = [n for n in range(REQUESTS) if patched.tokens[n] != off.tokens[n]]
    assert not differing


def test_the_kernel_serves_every_call_of_both_ranks_alike(patched: Served) -> None:
    first, second = (one["status"] for one in patched.workers)
    assert first["calls"] == second["calls"]
    assert first["calls"]["eager"] >= LAYERS * NEW_TOKENS * REQUESTS / CONCURRENCY
    for status in first, second:
        assert status["fallbacks"] == {}
        assert {signature["check"] for signature in status["signatures"].values()} == {"passed"}


def roles(server: Served) -> list[str]:
    """The role, and the rank where there is one, of each line."""
    columns = [re.split(r"  +", line) for line in server.live]
    return sorted(role if rank == "-" else f"{role} {rank}" for role, rank, *_ in columns)


def test_the_report_folder_has_every_role_and_rank(patched: Served) -> None:
    assert [one["process"]["rank"] for one in patched.workers] == [0, 1]
    (engine,) = {one["process"]["engine"] for one in patched.workers}
    assert engine, "ranks cannot find each other"
    assert patched.spawned == [True, True]
    assert patched.exit_status == 0
    assert roles(patched) == ["API server", "engine core", "worker 0 of 2", "worker 1 of 2"]
    applied = "rotary_embedding, mrope, longrope, ascend_rope_kernel, ascend_without_key, ascend_mrope"
    assert all(f"patched ({applied}, qkv_rmsnorm_rope, qkv_rmsnorm_mrope)" in line for line in patched.live)


def test_switched_off_every_process_says_so(off: Served) -> None:
    (worker,) = off.workers
    assert worker["status"]["mode"] == "off"
    assert worker["status"]["calls"] == {}
    assert off.spawned == [False]
    assert off.exit_status == 0
    assert roles(off) == ["API server", "engine core", "worker 0 of 1"]
    assert all("native (switched off by VLLM_ASCEND_TRITON_ROPE=0)" in line for line in off.live)
