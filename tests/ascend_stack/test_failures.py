"""Failures on the released stacks: only the failing signature is served natively, and one WARNING says what and why.

Run in each environment of ``stack_environment``, on the host CANN; see the README. Llama 3's class serves, whose native
code is PyTorch's and right for every shape.
"""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ascend_stack.engine import NEWEST
from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.models import LLAMA3
from tests.conftest import ROOT
from tests.host_cann import build

pytestmark = needs_stack


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The WARNINGs of rope_patch. Checks of earlier tests are forgotten, and so are this test's afterwards."""
    from rope_patch.operators import dispatch
    from rope_patch.reporting import log

    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.logger.addHandler(handler)
    log.warned.clear()
    dispatch.forget()
    yield said
    log.logger.removeHandler(handler)
    dispatch.forget()


def rotate(stack: Stack, num_heads: int, times: int = 1) -> tuple[int, int]:
    """Rotate ``num_heads`` and one key head; assert the result; return (calls served, calls handed back)."""
    from rope_patch.operators.reference import rotate as reference
    from rope_patch.operators.rotation import Rotation
    from rope_patch.reporting import ledger

    torch = stack.torch
    embedding = stack.build("llama3", 64, **LLAMA3)
    ledger.reset()
    positions = torch.arange(5)
    for turn in range(times):
        query = torch.randn(5, num_heads * 64, generator=torch.Generator().manual_seed(turn)).bfloat16()
        q, k = stack.rotate(embedding, positions.npu(), query.npu(), query[:, :64].contiguous().npu())
        for before, after in ((query, q), (query[:, :64], k)):
            heads = before.unflatten(-1, (-1, 64))
            wanted = reference(positions, heads, embedding.cos_sin_cache.cpu(), Rotation(64, 64, True)).flatten(-2)
            torch.testing.assert_close(after.cpu(), wanted, atol=2**-5, rtol=2**-6)
    return sum(ledger.calls().values()), sum(ledger.fallbacks().values())


def test_a_wrong_kernel_is_found_at_first_use_and_only_its_signature_is_native(
    stack: Stack, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rope_patch.kernels.launch import Launch

    right = Launch.on

    def wrong(
        work: Launch, call: Any, query_out: Any, key_out: Any
    ) -> None:  # returns no kernel, so no launcher is recorded
        right(work, call, query_out, key_out)
        if call.query.num_heads == 3:
            (call.query.tensor if query_out is None else query_out).view(-1)[0] += 1

    monkeypatch.setattr(Launch, "on", wrong)
    assert rotate(stack, 3, times=3) == (0, 3)
    assert len(warned) == 1, warned
    assert "heads 3/1" in warned[0]
    assert "first-use check" in warned[0]
    assert rotate(stack, 4) == (1, 0), "another signature is ours"


def test_a_kernel_that_does_not_compile_leaves_the_call_to_vllm(
    stack: Stack, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rope_patch.operators.rotation import KERNELS

    class Broken:
        __name__ = "broken"

        def __getitem__(self, grid: object) -> Any:
            def run(*arguments: object, **constants: object) -> None:
                raise RuntimeError("MLIRCompilationError: bishengir-compile failed")

            return run

    for kernel in KERNELS:
        monkeypatch.setattr(kernel, "function", Broken())
    assert rotate(stack, 3, times=2) == (0, 2)
    assert len(warned) == 1, warned
    assert "heads 3/1" in warned[0]
    assert "bishengir-compile failed" in warned[0]


@pytest.mark.parametrize("trouble", ["no folder can be made", "the disk is full"])
def test_a_triton_cache_that_cannot_be_written_stops_nothing(
    stack: Stack, warned: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: str
) -> None:
    """Read-only or full. Root, who may run the tests, can write anywhere, so the folder is below a file."""
    from triton.runtime import cache

    # Numbers of heads that no other test has, since compiled kernels stay in the process.
    num_heads = 5 if trouble == "the disk is full" else 6
    if trouble == "the disk is full":
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

        def put(*arguments: object, **named: object) -> str:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(cache.FileCacheManager, "put", put)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert rotate(stack, num_heads, times=2) == (0, 2)
    assert len(warned) == 1, warned
    assert f"heads {num_heads}/1" in warned[0]
    assert ("No space left" if trouble == "the disk is full" else "Not a directory") in warned[0]


def test_a_call_site_that_has_changed_is_left_alone_and_reported(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    import rope_patch

    name = "ascend_rope_kernel" if stack.has_triton_path else "ascend_rotary_class"
    rope_patch.disable()
    with monkeypatch.context() as patch:
        module, moved = stack.rotary_embedding, lambda q, k, table: (q, k)
        patch.setattr(module, "rope_forward_triton" if stack.has_triton_path else "_rope_forward_oot", moved)
        before = dict(vars(module)), dict(vars(module.AscendRotaryEmbedding))
        rope_patch.enable()
        assert "expected" in rope_patch.status()["targets"][name]
        assert rope_patch.status()["targets"]["rotary_embedding"] == "applied"
        assert (dict(vars(module)), dict(vars(module.AscendRotaryEmbedding))) == before
    rope_patch.disable()
    rope_patch.enable()
    assert rope_patch.status()["targets"][name] == "applied"


WORKER = """
import sys
from tests.host_cann import fixture
torch = fixture.initialise()
from rope_patch.reporting import ledger, log
from rope_patch.operators import contract
from rope_patch.operators.rotation import Rotation
q, k = torch.randn(5, 9 * 64).bfloat16().npu(), torch.randn(5, 64).bfloat16().npu()
cache = torch.rand(64, 64).bfloat16().npu()
print("ready", flush=True)
sys.stdin.readline()
rotated = contract.serve(torch.arange(5).npu(), q, k, cache, Rotation(64, 64, True))
print(rotated is not None, dict(ledger.calls()), dict(ledger.fallbacks()))
"""


def test_many_workers_that_compile_at_once_all_serve(stack: Stack, tmp_path: Path) -> None:
    if stack.version != NEWEST:
        pytest.skip("tried on 0.23.0: no vLLM takes part")

    build.share(build.ensure(), tmp_path, build.HEADERS)
    variables = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", WORKER]
    workers = [subprocess.Popen(command, cwd=ROOT, env=variables, text=True, **pipes) for _ in range(3)]
    for worker in workers:
        while (line := worker.stdout.readline()) != "ready\n":
            assert line, worker.stderr.read()
    for worker in workers:  # all have started; let them compile
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        out, err = worker.communicate()
        assert out.splitlines()[-1] == "True {'eager': 1} {}", err[-2000:]
