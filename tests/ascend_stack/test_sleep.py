"""Sleep and wake, a reload of weights, off and on while serving: no old address or check result is used afterwards.

Run in each environment of ``stack_environment``, on the host CANN; see the README. vllm-ascend's worker cannot be
imported there, since its allocator needs CANN's Python package: what it does to buffers is done here.
"""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.models import LLAMA3, YARN

pytestmark = needs_stack


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


@pytest.fixture
def model(stack: Stack) -> Iterator[Any]:
    """Two embeddings of a model with partial rotary, served by the kernel on every release; nothing is cached."""
    from rope_patch.operators import dispatch
    from rope_patch.reporting import ledger

    dispatch.forget()
    ledger.reset()
    llama3 = stack.build("llama3", 128, 64, **LLAMA3)
    yarn = stack.build("yarn", 128, 64, in_fresh_worker=False, **YARN)
    yield stack.torch.nn.ModuleDict({"llama3": llama3, "yarn": yarn})
    dispatch.forget()


def rotate(stack: Stack, embedding: Any, cache: Any, seed: int) -> int:
    """Rotate and check against ``cache``; return how many calls the kernel served."""
    from rope_patch.operators.reference import rotate as reference
    from rope_patch.operators.rotation import Rotation
    from rope_patch.reporting import ledger

    torch = stack.torch
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(5, 6 * 128, generator=generator).bfloat16()
    positions = torch.randint(0, 128, (5,), generator=generator)
    ledger.reset()
    rotated = stack.rotate(embedding, positions.npu(), *query.npu().split([4 * 128, 2 * 128], -1))
    served = sum(ledger.calls().values())
    for part, got in zip(query.split([4 * 128, 2 * 128], -1), rotated, strict=True):
        want = reference(positions, part.unflatten(-1, (-1, 128)), cache, Rotation(128, 64, True)).flatten(-2)
        tolerance = 4 * torch.finfo(torch.bfloat16).eps
        torch.testing.assert_close(got.cpu(), want, atol=tolerance, rtol=tolerance)
    return served


def caches(model: Any) -> dict[str, Any]:
    return {name: embedding.cos_sin_cache.cpu().clone() for name, embedding in model.items()}


@pytest.mark.parametrize("met", ["before", "not before"])
def test_after_sleep_and_wake_the_cache_is_read_anew(
    stack: Stack, model: Any, met: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Level 2 saves the buffers on the host and frees their memory, which may then hold any values."""
    from rope_patch.serving import first_use

    right = caches(model)
    if met == "before":
        for name, embedding in model.items():
            assert rotate(stack, embedding, right[name], 0) == 1
    saved = {name: buffer.cpu().clone() for name, buffer in model.named_buffers()}
    assert len(saved) == 2
    for buffer in model.buffers():
        buffer.fill_(float("nan"))
    query = stack.torch.ones(5, 768).bfloat16().npu()
    for embedding in model.values():  # a call meanwhile has no useful result, and must not retire the kernel
        stack.rotate(embedding, stack.torch.arange(5).npu(), *query.split([512, 256], -1))
    for name, buffer in model.named_buffers():
        buffer.data.copy_(saved[name].data)
    due = time.monotonic() + first_use.LONGEST_WAIT  # the next try of the check
    monkeypatch.setattr(first_use, "clock", lambda: due)
    for name, embedding in model.items():
        for seed in 1, 2:
            assert rotate(stack, embedding, right[name], seed) == 1


def test_a_cache_that_has_moved_is_read_where_it_is(stack: Stack, model: Any) -> None:
    """As in a reload that gives buffers other memory; their old memory is used for other tensors."""
    right = caches(model)
    for turn in range(3):
        for name, embedding in model.items():
            assert rotate(stack, embedding, right[name], turn) == 1
        model.cpu()
        taken = [stack.torch.full((128, 64), float("nan"), device="npu").bfloat16() for _ in range(4)]
        model.to("npu:0")
        del taken


def test_after_vllms_layerwise_reload_the_kernel_serves_as_before(stack: Stack, model: Any) -> None:
    reload = pytest.importorskip("vllm.model_executor.model_loader.reload", reason="this release has none")
    right = caches(model)
    reload.record_metadata_for_reloading(model)
    for turn in range(3):
        for name, embedding in model.items():
            assert rotate(stack, embedding, right[name], turn) == 1
        reload.initialize_layerwise_reload(model)
        reload.finalize_layerwise_reload(model, stack.config.model_config)
        for name, embedding in model.items():
            if embedding.cos_sin_cache.is_meta:  # upstream's reload leaves a layer without weights on meta
                embedding.register_buffer("cos_sin_cache", right[name].npu(), persistent=False)


def test_off_and_on_while_another_thread_serves(stack: Stack, model: Any) -> None:
    import rope_patch

    if stack.version == "0.11.0":
        pytest.skip("natively wrong where the rotary dim is not the head size, so there is nothing to compare with")
    right = caches(model)
    end, failures, served = threading.Event(), [], []

    def serve() -> None:
        try:
            while not end.is_set():
                for name, embedding in model.items():
                    served.append(rotate(stack, embedding, right[name], len(served)))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(3):
            rope_patch.disable()
            rope_patch.enable()
        for _ in range(3):
            for switch in rope_patch.disable, rope_patch.enable:
                switch()
                seen = len(served)
                while thread.is_alive() and len(served) < seen + 2:
                    time.sleep(0.001)
                assert thread.is_alive(), failures
                # The first may have begun before the switch.
                assert served[seen + 1] == (switch is rope_patch.enable)
    finally:
        end.set()
        thread.join()
    assert not failures
    for name, embedding in model.items():
        assert rotate(stack, embedding, right[name], 9) == 1
