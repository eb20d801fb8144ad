"""Calls of a layout that was served before use the cached launch, and only where that is right."""

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="calls need torch")
pytest.importorskip("triton", reason="calls need triton")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rope_patch.kernels.launch import INTERPRETED, Launch  # noqa: E402
from rope_patch.operators import contract, dispatch  # noqa: E402
from rope_patch.operators.rotation import Rotation  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from rope_patch.serving import cached_launch, first_use, layouts  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.rotations import DEVICE, Case, assert_rotated, rotation  # noqa: E402

compiled = pytest.mark.skipif(INTERPRETED, reason="an interpreter has no compiled kernel, hence no launcher")


@pytest.fixture(autouse=True)
def fresh_start() -> Iterator[None]:
    dispatch.forget()
    ledger.reset()
    yield
    dispatch.forget()


def check(case: Case) -> None:
    before = case.query.clone(), case.key.clone()
    rotated = contract.serve(*arguments(case))
    assert rotated is not None, ledger.fallbacks()
    assert_rotated(case, before[0], rotated[0])
    assert_rotated(case, before[1], rotated[1])


def arguments(case: Case) -> tuple[Any, ...]:
    return case.positions, case.query, case.key, case.cache, case.asked


@pytest.fixture
def through_triton(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The launches that went through Triton, and so were not served by a cached launch."""
    seen: list[Launch] = []
    right = Launch.on
    monkeypatch.setattr(Launch, "on", lambda work, *rest: (seen.append(work), right(work, *rest))[1])
    return seen


@compiled
@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
def test_from_the_second_call_on_the_kernels_own_launcher_serves(strided: bool, through_triton: list[Launch]) -> None:
    check(rotation(5, 4, 2, 64, 64, strided=strided))
    through_triton.clear()
    for seed in range(1, 4):
        check(rotation(5, 4, 2, 64, 64, strided=strided, seed=seed, max_position=97))
    assert not through_triton
    assert ledger.calls() == {"eager": 4}


@compiled
def test_the_op_uses_the_cached_launch_too(through_triton: list[Launch]) -> None:
    case = rotation(5, 4, 2, 64, 64)
    for _ in range(2):
        query, key = torch.ops.rope_patch.rotary_embedding(*arguments(case)[:4], *case.asked)
        assert_rotated(case, case.query, query)
        assert_rotated(case, case.key, key)
        before = len(through_triton)
    assert len(through_triton) == before


def watch_launchers(instead: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    """Replace ``run`` of each launcher found so far by ``instead(run)``."""
    for found in first_use.results.values():
        assert not isinstance(found, str)
        for kernel, launcher in found.runners.items():
            found.runners[kernel] = launcher._replace(run=instead(launcher.run))
    layouts.forget()


@compiled
def test_if_the_kernels_own_launcher_fails_triton_starts_the_kernel_from_then_on(through_triton: list[Launch]) -> None:
    def fails(run: Callable[..., object]) -> Callable[..., object]:
        def instead(*handed: Any) -> None:
            raise TypeError("function takes exactly 23 arguments")

        return instead

    check(rotation(5, 4, 2, 64, 64))
    watch_launchers(fails)
    through_triton.clear()
    check(rotation(5, 4, 2, 64, 64, seed=1))
    assert contract.serve(*arguments(rotation(5, 4, 2, 64, 64, seed=2))) is None
    for seed in range(3, 6):
        check(rotation(5, 4, 2, 64, 64, seed=seed))
    assert len(through_triton) == 4
    assert ledger.calls() == {"eager": 5}
    assert ledger.fallbacks() == {"its kernel's own launcher failed: TypeError": 1}


@compiled
def test_a_cached_launch_uses_the_current_stream() -> None:
    module = getattr(torch, torch.device(DEVICE).type)
    check(rotation(5, 4, 2, 64, 64))
    streams = []

    def watched(run: Callable[..., object]) -> Callable[..., object]:
        return lambda *handed: (streams.append(handed[3]), run(*handed))[1]

    watch_launchers(watched)
    side = module.Stream()
    for seed in (1, 1):  # the first by Triton, later ones by the launcher
        check(rotation(5, 4, 2, 64, 64, seed=seed))
    module.synchronize()
    with module.stream(side):
        check(rotation(5, 4, 2, 64, 64, seed=2))
    module.synchronize()
    check(rotation(5, 4, 2, 64, 64, seed=3))
    assert streams[0] == streams[2] != streams[1]


@compiled
def test_while_another_device_is_current_the_cached_launch_is_not_used(
    monkeypatch: pytest.MonkeyPatch, through_triton: list[Launch]
) -> None:
    """This machine has one device, so a double of the getter names another one as current."""
    monkeypatch.setattr(cached_launch, "device_getter", lambda kind: lambda: 1)
    check(rotation(5, 4, 2, 64, 64))
    through_triton.clear()
    check(rotation(5, 4, 2, 64, 64, seed=1))
    assert len(through_triton) == 1


@compiled
def test_threads_get_their_own_rotations() -> None:
    check(rotation(5, 4, 2, 64, 64))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(check, rotation(5, 4, 2, 64, 64, seed=seed)) for seed in range(40)]:
            done.result()
    assert ledger.fallbacks() == {}


@compiled
@pytest.mark.parametrize("strided", [True, False], ids=["fresh", "in place"])
def test_however_many_tokens_at_most_three_kernels_are_compiled(strided: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = set()
    right = Launch.on

    def watched(work: Launch, *arguments: Any) -> object:
        kernel = right(work, *arguments)
        kernels.add(kernel)
        return kernel

    monkeypatch.setattr(Launch, "on", watched)
    whole = rotation(4096, 4, 2, 64, 64, strided=strided)
    for num_tokens in (*range(1, 200), 255, 256, 1000, 2048, 4095, 4096):
        query, key = whole.query[:num_tokens], whole.key[:num_tokens]
        assert contract.serve(whole.positions[:num_tokens], query, key, whole.cache, Rotation(64, 64, True)) is not None
    # One token's slice is contiguous, hence rotated in place, which is another signature.
    assert 2 <= len(kernels) <= (6 if strided else 3)
    assert len(ledger.signatures()) == (2 if strided else 1)


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch, through_triton: list[Launch]) -> list[Launch]:
    """The launches that no cached launch served. With it, launches are cached in the interpreter too."""
    interpreted_runner.install(monkeypatch)
    check(rotation(5, 4, 2, 32, 32))
    through_triton.clear()
    check(rotation(5, 4, 2, 32, 32, seed=1))
    assert not through_triton
    return through_triton


def test_the_number_of_cached_launches_is_limited(monkeypatch: pytest.MonkeyPatch, uncached: list[Launch]) -> None:
    monkeypatch.setattr(layouts, "MAX_CACHED", 2)
    for num_tokens in range(1, 7):
        check(rotation(num_tokens, 4, 2, 32, 32))
    uncached.clear()
    check(rotation(6, 4, 2, 32, 32, seed=1))
    assert not uncached, "the last layout is cached"
    check(rotation(1, 4, 2, 32, 32, seed=1))
    assert len(uncached) == 1, "the first layout is not cached any more"


def layers(case: Case, count: int) -> list[Case]:
    """Calls of one step: all have the same positions and cache objects, and each layer its own query and key."""
    num_tokens = case.positions.numel()
    others = [
        rotation(num_tokens, 4, 2, case.head_size, case.rotary_dim, seed=100 + seed, strided=bool(seed % 2))
        for seed in range(count)
    ]
    return [replace(other, positions=case.positions, cache=case.cache) for other in others]


@compiled
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(st.sampled_from([1, 3]), st.sampled_from([torch.int32, torch.int64])), max_size=6),
    kinds=st.integers(1, 2),
)
def test_each_layer_is_rotated_by_the_positions_of_its_step_and_its_own_cache(
    steps: list[tuple[int, Any]], kinds: int
) -> None:
    """Positions are new in each step, the caches stay. Layers of up to two kinds, each with its cache, alternate."""
    caches = [rotation(1, 4, 2, 32, 32, cache_dtype=dtype).cache for dtype in (torch.float32, torch.bfloat16)]
    for seed, (num_tokens, dtype) in enumerate(steps):
        step = rotation(num_tokens, 4, 2, 32, 32, positions_dtype=dtype, seed=seed)
        for turn in zip(*(layers(replace(step, cache=cache), 4) for cache in caches[:kinds]), strict=True):
            for layer in turn:
                check(layer)


@compiled
def test_positions_and_cache_that_change_in_place_are_read_anew() -> None:
    case = rotation(5, 4, 2, 32, 32)
    for seed in range(1, 4):
        other = rotation(5, 4, 2, 32, 32, seed=seed)
        case.positions.copy_(other.positions)
        case.cache.copy_(other.cache)
        check(replace(other, positions=case.positions, cache=case.cache))


@compiled
@pytest.mark.parametrize("num_tokens", [3, 8])
def test_positions_that_change_their_memory_and_length_in_place_are_read_anew(num_tokens: int) -> None:
    case = rotation(5, 4, 2, 32, 32)
    check(case)
    other = rotation(num_tokens, 4, 2, 32, 32, seed=1)
    case.positions.set_(other.positions)
    for seed in range(2, 4):
        check(replace(rotation(num_tokens, 4, 2, 32, 32, seed=seed), positions=case.positions, cache=case.cache))


# Changes of the memory below the same tensor objects, after which the kernel still serves the call.
CHANGES: dict[str, Callable[[Case], object]] = {
    "a longer cache": lambda case: set_data(case.cache, rotation(1, 4, 2, 32, 32, seed=7, max_position=200).cache),
    "a shorter cache in the same memory": lambda case: set_data(case.cache, case.cache[:50]),
    "a cache of another dtype": lambda case: set_data(case.cache, case.cache.float()),
    "a cache whose rows are apart": lambda case: set_data(case.cache, torch.cat([case.cache] * 2, 1)[:, :32]),
    "every other row of the cache, in place": lambda case: case.cache.as_strided_((48, 32), (64, 1)),
    "a cache that is resized in place": lambda case: case.cache.resize_(60, 32),
    "positions of another dtype": lambda case: set_data(case.positions, case.positions.int()),
}


def set_data(tensor: torch.Tensor, to: torch.Tensor) -> None:
    tensor.data = to


def test_changes_of_the_memory_of_positions_and_cache_are_noticed(uncached: list[Launch]) -> None:
    for change in CHANGES.values():
        case = rotation(5, 4, 2, 32, 32)
        check(case)
        change(case)
        case.positions.copy_(torch.linspace(0, len(case.cache) - 1, 5))
        check(replace(rotation(5, 4, 2, 32, 32, seed=1), positions=case.positions, cache=case.cache))
    assert ledger.calls() == {"eager": 2 + 2 * len(CHANGES)}


# Changes after which the kernel cannot serve the call any more, so that it goes to the original.
SPOILT: dict[str, Callable[[Case], object]] = {
    "fewer positions": lambda case: case.positions.resize_(3),
    "positions apart": lambda case: case.positions.set_(case.positions.new_zeros(10)[::2]),
    "float positions": lambda case: set_data(case.positions, case.positions.double()),
    "a cache of fewer lanes": lambda case: case.cache.resize_(97, 16),
    "a cache on its side": lambda case: set_data(case.cache, case.cache[:32].t()),
}


def test_a_call_that_the_kernel_cannot_serve_any_more_goes_to_the_original(uncached: list[Launch]) -> None:
    for name, change in SPOILT.items():
        case = rotation(5, 4, 2, 32, 32)
        check(case)
        change(case)
        assert contract.serve(*arguments(case)) is None, name
    assert sum(ledger.fallbacks().values()) == len(SPOILT)


def test_one_tensor_as_query_and_key_goes_to_the_original_although_its_layout_is_cached(uncached: list[Launch]) -> None:
    case = rotation(5, 4, 4, 32, 32, strided=False)
    for seed in range(2):
        check(replace(rotation(5, 4, 4, 32, 32, strided=False, seed=seed), positions=case.positions, cache=case.cache))
    before = case.query.clone()
    assert contract.serve(*arguments(replace(case, key=case.query))) is None
    assert torch.equal(case.query, before)


def test_a_layout_that_is_in_use_stays_cached_among_any_number_of_others(
    monkeypatch: pytest.MonkeyPatch, uncached: list[Launch]
) -> None:
    monkeypatch.setattr(layouts, "MAX_CACHED", 4)
    for num_tokens in range(6, 12):
        check(rotation(num_tokens, 4, 2, 32, 32))
        uncached.clear()
        check(rotation(5, 4, 2, 32, 32, seed=num_tokens))
        assert not uncached


def test_no_positions_and_no_cache_are_kept_alive() -> None:
    case = rotation(5, 4, 2, 32, 32)
    for _ in range(2):
        check(case)
    kept = weakref.ref(case.positions), weakref.ref(case.cache)
    del case
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@compiled
def test_a_step_of_cached_layouts_never_goes_through_triton(through_triton: list[Launch]) -> None:
    for seed in range(3):
        for layer in layers(rotation(3, 4, 2, 32, 32, seed=seed), 4):
            check(layer)
        if seed == 0:
            assert through_triton
        through_triton.clear()
    for layer in layers(rotation(3, 4, 2, 32, 32, seed=9), 4):
        check(layer)
    assert not through_triton


def moved_by_one_element(case: Case) -> Case:
    memory = torch.empty(case.storage.numel() + 1, dtype=case.storage.dtype, device=DEVICE)[1:]
    case.storage = memory.view(case.storage.shape).copy_(case.storage)
    q_width, k_width = case.query.shape[1], case.key.shape[1]
    case.query, case.key = case.storage[:, :q_width], case.storage[:, q_width : q_width + k_width]
    return case


# Each differs from the first in one thing that a launch depends on.
LAYOUTS = {
    "views": lambda seed: rotation(3, 4, 2, 32, 32, seed=seed),
    "contiguous tensors": lambda seed: rotation(3, 4, 2, 32, 32, seed=seed, strided=False),
    "one token": lambda seed: rotation(1, 4, 2, 32, 32, seed=seed),
    "a shorter cache": lambda seed: rotation(3, 4, 2, 32, 32, seed=seed, max_position=5),
    "unaligned": lambda seed: moved_by_one_element(rotation(3, 4, 2, 32, 32, seed=seed)),
    "other style": lambda seed: rotation(3, 4, 2, 32, 32, seed=seed, is_neox_style=False),
}


@compiled  # in an interpreter nothing is cached
@settings(max_examples=20, deadline=None, derandomize=True)
@given(order=st.lists(st.tuples(st.sampled_from(sorted(LAYOUTS)), st.integers(0, 99)), min_size=4, max_size=12))
def test_whatever_was_served_before_a_call_gets_its_own_rotation(order: list[tuple[str, int]]) -> None:
    for layout, seed in order:
        check(LAYOUTS[layout](seed))


def test_arguments_that_are_refused_are_refused_after_others_were_served() -> None:
    check(rotation(5, 4, 2, 64, 64))
    case = rotation(5, 4, 2, 64, 64)
    case.positions = case.positions[:4]
    assert contract.serve(*arguments(case)) is None
    assert ledger.fallbacks() == {"expected as many tokens in query and key as in positions": 1}


def test_a_cache_that_is_freed_and_filled_again_as_by_sleep_and_wake_is_read_anew(uncached: list[Launch]) -> None:
    """vLLM's ``sleep(level=2)`` saves buffers on the host and writes them back later; a reload may make new ones."""
    embedding = torch.nn.Module()
    embedding.register_buffer("cos_sin_cache", rotation(1, 4, 2, 32, 32).cache, persistent=False)
    for seed in range(3):
        case = rotation(5, 4, 2, 32, 32, seed=seed)
        check(replace(case, cache=embedding.cos_sin_cache))
        saved = embedding.cos_sin_cache.cpu().clone()
        old = weakref.ref(embedding.cos_sin_cache)
        embedding.cos_sin_cache.zero_()
        if seed == 1:
            embedding.cos_sin_cache = torch.empty_like(embedding.cos_sin_cache)
            gc.collect()
            assert old() is None
        embedding.cos_sin_cache.data.copy_(saved)
        check(replace(rotation(5, 4, 2, 32, 32, seed=seed + 9), cache=embedding.cos_sin_cache))
    assert not ledger.fallbacks()
    assert not uncached
