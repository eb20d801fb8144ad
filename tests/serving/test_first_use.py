"""The first-use check: it finds a wrong kernel before the kernel serves, whatever the first call's positions are."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the check needs torch")
triton = pytest.importorskip("triton", reason="the check needs triton")

from rope_patch import settings  # noqa: E402
from rope_patch.kernels.launch import Launch, device_facts  # noqa: E402
from rope_patch.kernels.planning import plans_of  # noqa: E402
from rope_patch.operators import (  # noqa: E402
    contract,
    dispatch,
    reference,
)
from rope_patch.operators.rotation import KERNELS, Heads, Rotation, RotationCall  # noqa: E402
from rope_patch.reporting import announcement, ledger, log  # noqa: E402
from rope_patch.serving import first_use, layouts, trial  # noqa: E402
from rope_patch.serving.sample import NotNow  # noqa: E402
from tests.conftest import FORKS_BESIDE_THREADS, Run  # noqa: E402
from tests.rotations import DEVICE, Case, assert_rotated, rotation  # noqa: E402

Outs = tuple[torch.Tensor | None, torch.Tensor | None]


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    dispatch.forget()
    ledger.reset()
    log.warned.clear()
    yield
    dispatch.forget()


def rotated(call: RotationCall, heads: Heads, mistake: str, tile: int = 1) -> torch.Tensor:
    """A rotation with a deliberate mistake, in fp32 and rounded once like the kernel's, whose tiles have ``tile``
    tokens."""
    cache, half = call.cos_sin_cache, call.rotation.rotary_dim // 2
    tensor = heads.tensor.view(-1, heads.num_heads, call.rotation.head_size)
    if mistake == "sin at the padded offset":  # upstream's defect for rotary dims that are not powers of two
        padded = 1 << (call.rotation.rotary_dim - 1).bit_length()
        cache = torch.cat((cache[:, :half], cache.roll(half - padded // 2, 1)[:, half:]), -1)
    if mistake == "halves swapped":
        cache = torch.cat((cache[:, :half], -cache[:, half:]), -1)
    if mistake == "position ignored":
        cache = cache[:1].expand_as(cache)
    out = reference.rotate(call.positions, tensor, cache, call.rotation)
    if mistake == "one lane off":
        out[..., : call.rotation.rotary_dim] = out[..., : call.rotation.rotary_dim].roll(1, -1)
    if mistake == "one lane of one head of the last token":
        out[-1, -1, 0] *= 1.05
    if mistake == "a pass-through lane changed":
        out[0, 0, -1] += 1
    if mistake == "not written":
        out[1] = float("nan")
    if mistake in TILES:
        out[TILES.index(mistake) * tile, 0, 0] += 1
    return out


MISTAKES = (
    "sin at the padded offset", "halves swapped", "position ignored", "one lane off",
    "one lane of one head of the last token", "a pass-through lane changed", "not written",
)  # fmt: skip


TILES = ("the first tile", "the second tile", "the tail")


def seed(monkeypatch: pytest.MonkeyPatch, mistake: str, where: tuple[str, ...] = ("query", "key")) -> None:
    """Let the kernel make a mistake in these of its outputs."""

    def launch(work: Launch, call: RotationCall, query_out: torch.Tensor | None, key_out: torch.Tensor | None) -> None:
        for name, heads, out in (("query", call.query, query_out), ("key", call.key, key_out)):
            if heads is not None:
                target = heads.tensor if out is None else out
                made = mistake if name in where else "none"
                target.copy_(rotated(call, heads, made, work.constants.get("BLOCK_T", 1)).view(target.shape))

    monkeypatch.setattr(Launch, "on", launch)


def rotated_by_zero(strided: bool = True, seed: int = 0) -> Case:
    case = rotation(5, 4, 2, 64, 40, strided=strided, seed=seed)
    case.positions[:] = 0  # as in the engine's warm-up: a rotation by zero proves nothing
    return case


def checks() -> list[str]:
    return [entry["check"] for entry in ledger.signatures().values()]


def serve(strided: bool = True, seed: int = 0) -> Any:
    return served(rotated_by_zero(strided, seed))


def served(case: Case) -> Any:
    return contract.serve(case.positions, case.query, case.key, case.cache, Rotation(64, 40, True))


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_kernel_never_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mistake: str, strided: bool
) -> None:
    seed(monkeypatch, mistake)
    assert serve(strided) is None
    assert serve(strided, seed=1) is None
    assert not ledger.calls()
    assert sum(ledger.fallbacks().values()) == 2
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "one WARNING, not one per call"
    assert "rotary_dim 40" in warnings[0]
    assert "first-use check failed" in warnings[0]


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
@pytest.mark.parametrize("where", ["query", "key"])
@pytest.mark.parametrize("mistake", ["one lane off", *TILES])
def test_a_kernel_that_is_wrong_in_one_output_or_in_one_tile_never_serves(
    monkeypatch: pytest.MonkeyPatch, mistake: str, where: str, strided: bool
) -> None:
    seed(monkeypatch, mistake, (where,))
    assert serve(strided) is None
    (fault,) = checks()
    assert f"{where} lanes wrong" in fault
    if mistake in TILES:
        assert "failed: 1 of" in fault


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
def test_the_same_double_without_a_mistake_serves(monkeypatch: pytest.MonkeyPatch, strided: bool) -> None:
    seed(monkeypatch, "none")
    assert serve(strided) is not None


def test_a_kernel_that_cannot_be_compiled_is_not_used_and_the_warning_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def launch(*arguments: Any) -> None:
        raise RuntimeError("ub overflow, requires 1600000 bits while 1572864 bits available!")

    monkeypatch.setattr(Launch, "on", launch)
    assert serve() is None
    assert "ub overflow" in caplog.text
    (fault,) = checks()
    assert "RuntimeError: ub overflow" in str(fault)


def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    run = trial.run
    monkeypatch.setattr(trial, "run", lambda *given: (tried.append(given), run(*given))[1])
    assert serve() is not None
    first = len(tried)
    assert first
    for seed_ in range(1, 4):
        assert serve(seed=seed_) is not None
    assert len(tried) == first
    assert serve(strided=False) is not None  # in place is another kernel
    assert len(tried) > first


def test_a_signature_first_seen_during_capture_is_served_natively_and_checked_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = getattr(torch, torch.device(DEVICE).type)
    monkeypatch.setattr(device, "is_current_stream_capturing", lambda: True, raising=False)
    assert serve() is None
    assert ledger.fallbacks() == {"first seen during graph capture": 1}
    monkeypatch.setattr(device, "is_current_stream_capturing", lambda: False, raising=False)
    assert serve() is not None
    monkeypatch.setattr(device, "is_current_stream_capturing", lambda: True, raising=False)
    assert serve() is not None  # it was checked before, so it is served during capture too


def test_the_check_allocates_little_and_keeps_nothing() -> None:
    """At most 1 MiB of device memory at once, so that vLLM's memory profiling gives what it gives without the check."""
    import gc
    import weakref

    from torch.utils._python_dispatch import TorchDispatchMode

    class Allocations(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.storages: dict[int, tuple[Any, int]] = {}
            self.peak = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func._schema.name in ("aten::empty", "aten::full"):  # the check allocates device memory by these
                storage = result.untyped_storage()
                self.storages[storage.data_ptr()] = (weakref.ref(result), storage.nbytes())
                self.peak = max(self.peak, sum(size for ref, size in self.storages.values() if ref() is not None))
            return result

    case = rotation(3, 32, 8, 128, 128)
    call = case.call()
    with Allocations() as allocations:
        assert isinstance(first_use.checked(call)[1], first_use.Trusted)
    gc.collect()
    assert 0 < allocations.peak <= trial.SCRATCH_BYTES
    assert not [ref for ref, _ in allocations.storages.values() if ref() is not None]


def test_a_tile_too_large_for_the_checks_memory_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SCRATCH_BYTES", 1000)
    assert serve() is None
    assert "more than the 1000 bytes" in checks()[0]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size", "rotary_dim"), [(7, 7, 96, 24), (5, 1, 80, 20), (1, 1, 64, 6)]
)
def test_few_and_small_heads_are_served_whose_largest_tile_the_check_could_not_try(
    heads: int, kv_heads: int, head_size: int, rotary_dim: int
) -> None:
    """Mainline Triton's tiles for these were once of 512 tokens."""
    case = rotation(70, heads, kv_heads, head_size, rotary_dim)
    before = case.query.clone()
    results = contract.serve(case.positions, case.query, case.key, case.cache, Rotation(head_size, rotary_dim, True))
    assert results is not None, ledger.fallbacks()
    assert_rotated(case, before, results[0])


@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
def test_a_kernel_that_fails_to_start_later_is_retired(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, strided: bool
) -> None:
    assert serve(strided) is not None
    layouts.forget()  # so that Triton starts it; the kernel's own launcher: operators/test_dispatch.py

    def launch(*arguments: Any) -> None:
        raise RuntimeError("no such kernel any more")

    with monkeypatch.context() as patched:
        patched.setattr(Launch, "on", launch)
        assert serve(strided) is None
    assert serve(strided) is None, "once retired, it stays native"
    assert "no such kernel any more" in caplog.text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The first-use check's clock: one number, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(first_use, "clock", lambda: now[0])
    return now


def out_of_memory(*arguments: Any, **named: Any) -> Any:
    raise torch.OutOfMemoryError("NPU out of memory. Tried to allocate 2.00 MiB")


def test_no_memory_for_the_check_is_not_the_kernels_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    for place in ((torch, "full"), (Launch, "on")):  # the check's own memory, and what Triton allocates for a launch
        with monkeypatch.context() as patched:
            patched.setattr(*place, out_of_memory)
            assert serve() is None
            clock[0] += first_use.LONGEST_WAIT
            assert serve(seed=1) is None
        clock[0] += first_use.LONGEST_WAIT
        assert checks() == ["not run yet"]
    assert caplog.text.count("will be tried again") == 1
    assert serve() is not None


def test_no_memory_for_a_later_launch_is_not_the_kernels_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve() is not None
    layouts.forget()
    with monkeypatch.context() as patched:
        patched.setattr(Launch, "on", out_of_memory)
        assert serve() is None
    assert serve() is not None


def test_a_device_that_failed_before_is_not_the_kernels_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an asynchronous fault of another kernel: every later call raises, waiting for the device too."""

    def failed(*arguments: Any) -> None:
        raise RuntimeError("507015: an asynchronous error of another kernel")

    assert serve() is not None
    layouts.forget()
    case = rotated_by_zero()  # the host CANN waits for the device when it makes a tensor
    with monkeypatch.context() as patched:
        patched.setattr(Launch, "on", failed)
        patched.setattr(getattr(torch, torch.device(DEVICE).type), "synchronize", failed)
        assert served(case) is None
    assert serve() is not None


def test_after_a_launch_hook_raises_tensors_rotated_in_place_are_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton calls exit hooks, as profilers set them, after the kernel was started."""
    assert serve(strided=False) is not None
    layouts.forget()
    right = Launch.on

    def launch(*arguments: Any) -> None:
        right(*arguments)
        raise ValueError("the profiler's")

    monkeypatch.setattr(Launch, "on", launch)
    if hasattr(triton, "knobs"):
        monkeypatch.setattr(triton.knobs.runtime.launch_exit_hook, "calls", [print])
    else:
        monkeypatch.setattr(triton.compiler.CompiledKernel, "launch_exit_hook", print)
    case = rotation(5, 4, 2, 64, 40, strided=False)
    before = case.query.clone(), case.key.clone()
    assert contract.serve(case.positions, case.query, case.key, case.cache, Rotation(64, 40, True)) is None
    assert torch.equal(case.query, before[0]), "the original will rotate it"
    assert torch.equal(case.key, before[1])


# Number of tokens, head stride, token stride. Strides that are multiples of 16 may need another kernel, and where rows
# are very far apart a tile has fewer of them.
NEAR, EVEN, ODD, FAR = (3, 40, 200), (3, 48, 192), (3, 40, 201), (3, 40, 2**22)


@pytest.mark.skipif(DEVICE != "cpu", reason="rows that far apart take memory, but on a CPU")
@pytest.mark.parametrize(
    ("stride_unit", "order"), [(16, (NEAR, EVEN, ODD)), (1, (NEAR, FAR)), (1, (FAR, NEAR))], ids=["even", "far", "near"]
)
def test_every_kernel_that_serves_was_checked(
    monkeypatch: pytest.MonkeyPatch, stride_unit: int, order: tuple[tuple[int, int, int], ...]
) -> None:
    # Large tiles for any number of tokens, so that rows far apart need no gigabytes of memory.
    facts = device_facts(torch.device(DEVICE))
    facts = replace(facts, stride_unit=stride_unit, busy_programs=0, tile_bytes=2**21)
    monkeypatch.setattr(first_use, "device_facts", lambda device: facts)
    checking: list[bool] = []
    checked, served = set(), []
    run, right = trial.run, Launch.on
    monkeypatch.setattr(trial, "run", lambda *given: (checking.append(True), run(*given), checking.pop())[1])

    def launch(work: Launch, *rest: Any) -> object:
        kernel = work.function.__name__, *work.constants.values()
        checked.add(kernel) if checking else served.append(kernel)
        return right(work, *rest)

    monkeypatch.setattr(Launch, "on", launch)
    for num_tokens, lanes, apart in order:
        query = torch.empty(num_tokens * apart, dtype=torch.bfloat16).as_strided((num_tokens, 4, 40), (apart, lanes, 1))
        before = query.normal_().clone()
        case = rotation(num_tokens, 4, 0, 40, 32)
        rotated = contract.serve(case.positions, query, None, case.cache, Rotation(40, 32, True))
        assert rotated is not None, ledger.fallbacks()
        assert_rotated(replace(case, query=query), before, rotated[0])
    assert len(served) == len(order)
    assert checked.issuperset(served)


def test_full_tiles_are_checked_not_only_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of few tokens with wide rows: the check runs full tiles, as the plan would on many tokens."""
    seen = set()
    right = Launch.on

    def launch(work: Launch, call: RotationCall, *outputs: Any) -> object:
        seen.add((work.constants.get("BLOCK_T", 1), call.positions.numel()))
        return right(work, call, *outputs)

    monkeypatch.setattr(Launch, "on", launch)
    wide = torch.zeros(3, 20_000, dtype=torch.bfloat16, device=DEVICE)
    case = rotation(3, 4, 1, 64, 64)
    query, key = wide[:, :256], wide[:, 256:320]
    assert contract.serve(case.positions, query, key, case.cache, Rotation(64, 64, True)) is not None
    shape = replace(case.call(), query=Heads(query, 4, 20_000, 64)).shape
    for plan in plans_of(KERNELS, shape, device_facts(torch.device(DEVICE))):
        assert any(block == plan.block_tokens <= num_tokens for block, num_tokens in seen)


def test_after_a_failure_smaller_tiles_are_tried_once_and_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def serve_tokens(num_tokens: int) -> Any:
        case = rotation(num_tokens, 4, 2, 64, 64)
        return contract.serve(case.positions, case.query, case.key, case.cache, Rotation(64, 64, True))

    largest = 10**9
    tried = []
    right = Launch.on

    def launch(work: Launch, *arguments: Any) -> object:
        block = work.constants.get("BLOCK_Q", work.constants["Q_HEADS"])
        tile = work.constants.get("BLOCK_T", 1) * block
        tried.append(tile)
        if tile > largest:
            raise RuntimeError("ub overflow, requires 1600000 bits while 1572864 bits available!")
        return right(work, *arguments)

    monkeypatch.setattr(Launch, "on", launch)
    caplog.set_level("INFO")
    assert serve_tokens(5) is not None
    largest = max(tried) - 1
    dispatch.forget()
    assert serve_tokens(5) is not None
    assert "smaller tiles are used, since RuntimeError: ub overflow" in caplog.text
    assert set(checks()) == {"passed"}
    tried.clear()
    layouts.forget()
    assert serve_tokens(3000) is not None
    assert len(tried) == 1, "not checked again"
    assert tried[0] <= largest, "many tokens, in the smaller tiles"


def test_a_first_call_of_one_token_does_not_decide_for_other_strides() -> None:
    """The strides of one token do not matter. Later calls with other strides must be checked as they are."""
    for num_tokens in (1, 5):
        case = rotation(num_tokens, 4, 0, 32, 32)
        wide = torch.randn(num_tokens, 4, 80).to(DEVICE, torch.bfloat16)
        case.query = wide[:, :, :32]
        before = case.query.clone()
        rotated = contract.serve(case.positions, case.query, None, case.cache, Rotation(32, 32, True))
        assert rotated is not None
        assert_rotated(case, before, rotated[0])
    assert set(checks()) == {"passed"}


def test_the_first_use_asks_for_the_info_line_and_later_calls_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(announcement, "announce", lambda: asked.append(True))
    for _ in range(3):
        assert serve() is not None
    assert asked == [True]


def test_unaligned_memory_is_another_signature() -> None:
    for offset in (0, 1):
        case = rotation(5, 4, 0, 32, 32)
        memory = torch.randn(5 * 200 + 1).to(DEVICE, torch.bfloat16)
        case.query = memory.as_strided((5, 128), (200, 1), offset)
        before = case.query.clone()
        assert_rotated(
            case, before, contract.serve(case.positions, case.query, None, case.cache, Rotation(32, 32, True))[0]
        )
    assert sorted("unaligned" in words for words in ledger.signatures()) == [False, True]


def test_with_the_check_switched_off_nothing_is_checked_and_the_status_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "current", lambda: settings.parse({settings.CHECK: "0"}))
    seed(monkeypatch, "halves swapped")
    monkeypatch.setattr(trial, "run", lambda *arguments: pytest.fail("checked"))
    assert serve() is not None
    (entry,) = ledger.signatures().values()
    assert (entry["path"], entry["check"], entry["calls"]) == ("kernel", "switched off", 1)


def test_the_status_has_plans_calls_and_fallbacks_of_each_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        assert serve() is not None
    with monkeypatch.context() as patched:
        device = getattr(torch, torch.device(DEVICE).type)
        patched.setattr(device, "is_current_stream_capturing", lambda: True, raising=False)
        assert serve(strided=False) is None
    assert serve(strided=False) is not None
    seed(monkeypatch, "halves swapped")
    case = rotation(5, 4, 2, 64, 64)
    assert contract.serve(case.positions, case.query, case.key, case.cache, Rotation(64, 64, True)) is None
    found = ledger.signatures()
    which = {"wrong": "rotary_dim 64", "in place": "query in place", "fresh": "rotary_dim 40 query fresh"}
    entries = {name: found[next(words for words in found if part in words)] for name, part in which.items()}
    assert len(found) == 3
    assert entries["fresh"]["calls"] == 3
    heights = [plan["block_tokens"] for plan in entries["fresh"]["plans"]]
    assert heights == sorted(heights)
    assert len(heights) >= 2
    assert entries["in place"]["fallbacks"] == {"first seen during graph capture": 1}
    assert entries["in place"]["calls"] == 1
    assert entries["wrong"]["path"] == "native"
    assert entries["wrong"]["calls"] == 0
    ((reason, count),) = entries["wrong"]["fallbacks"].items()
    assert (reason, count) == (entries["wrong"]["check"], 1)


def test_a_cache_that_is_not_filled_yet_does_not_retire_the_kernel(clock: list[float]) -> None:
    """As between ``sleep(level=2)`` and the end of the wake-up, when the cache's memory may hold any values."""
    case = rotated_by_zero()
    filled = case.cache.clone()
    case.cache.fill_(float("nan"))
    assert served(case) is None
    case.cache.copy_(filled)
    clock[0] += first_use.LONGEST_WAIT
    query = case.query.clone()
    rotated = served(case)
    assert rotated is not None, ledger.fallbacks()
    assert_rotated(case, query, rotated[0])


def test_a_check_that_is_not_possible_is_tried_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """Each try makes tensors and waits for the device; every layer of every step asks."""
    tries: list[float] = []

    def not_now(*arguments: Any) -> Any:
        tries.append(clock[0])
        raise NotNow("the cache holds values that are not finite")

    with monkeypatch.context() as patched:
        patched.setattr(trial, "run", not_now)
        calls = 640
        for _ in range(calls):
            assert serve() is None
            clock[0] += 1 / 64
        assert ledger.fallbacks() == {first_use.NOT_POSSIBLE: calls}
        waits = [late - early for early, late in itertools.pairwise(tries)]
        assert waits[:7] == [2.0**n for n in range(-6, 1)]
        assert set(waits[7:]) == {1.0}
        device = getattr(torch, torch.device(DEVICE).type)
        patched.setattr(device, "is_current_stream_capturing", lambda: True, raising=False)
        ledger.reset()
        assert serve() is None
        assert ledger.fallbacks() == {first_use.CAPTURED: 1}
    clock[0] += 1
    assert serve() is not None
    for seed_ in range(1, 4):
        assert serve(seed=seed_) is not None, "the clock is not asked any more"


def test_one_signatures_check_that_is_not_possible_delays_no_other(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch, "full", out_of_memory)
        assert serve() is None
    assert serve(strided=False) is not None
    assert serve() is None


FORK = """
import os, signal, threading
import torch
from rope_patch.operators import contract
from rope_patch.operators.rotation import Rotation
from rope_patch.serving import trial
from tests.rotations import rotation
begun, right = threading.Event(), trial.run
def slow(*given):
    begun.set()
    threading.Event().wait()
trial.run = slow
cases = {heads: rotation(5, heads, 1, 32, 32) for heads in (1, 64)}  # made before the fork: a child may hang in PyTorch
def serve(heads):
    case = cases[heads]
    return contract.serve(case.positions, case.query, case.key, case.cache, Rotation(32, 32, True))
threading.Thread(target=serve, args=(1,), daemon=True).start()
begun.wait()
print(serve(1) is None)  # no thread waits for another thread's check
torch.set_num_threads(2)
(torch.ones(10**6) + 1).sum()  # PyTorch's thread pool exists now
child = os.fork()
if not child:
    signal.alarm(500)  # ends a child that waits forever, before pytest ends the test
    trial.run = right
    print(serve(1) is not None, serve(64) is not None, torch.get_num_threads(), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
os._exit(0)
"""


@pytest.mark.skipif(DEVICE != "cpu", reason="a forked process cannot use its parent's device")
def test_a_forked_process_makes_its_own_check_while_its_parents_thread_is_checking(python: Run) -> None:
    assert python(FORK, flags=FORKS_BESIDE_THREADS, TRITON_INTERPRET="1").split() == ["True", "True", "True", "2", "0"]
