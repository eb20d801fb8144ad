"""What stands in the place of a Triton kernel that is a module's global."""

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("wrapt")

from rope_patch.patching.replacement import Replacement
from rope_patch.patching.stand_in import StandIn, function_of
from rope_patch.reporting import ledger


class Kernel:
    """As Triton's: made of a function, started as ``kernel[grid](...)``; has a method of its own."""

    def __init__(self) -> None:
        self.fn = lambda x_ptr, y_ptr, SIZE: None
        self.started: list[Any] = []

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda *arguments, **named: self.started.append((grid, arguments, named))

    def warmup(self) -> str:
        return "warm"


class Upstream(types.ModuleType):
    """A module whose function looks its kernel up at each call, and one that has a copy of the kernel."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__("upstream")
        self.kernel = kernel

    def call(self, size: int = 3) -> None:
        self.kernel[(2,)]("x", "y", size)


@pytest.fixture
def module() -> Iterator[Upstream]:
    sys.modules["upstream"] = made = Upstream(Kernel())
    yield made
    del sys.modules["upstream"]


def replacement(module: Upstream, served: list[Any], answer: bool = True) -> Replacement:
    def serve(*arguments: Any, **named: Any) -> bool:
        served.append((arguments, named))
        return answer

    return Replacement(module, "kernel", lambda original, is_on: StandIn(original, is_on, serve))


def test_it_serves_instead_of_the_kernel_which_is_not_started(module: Upstream) -> None:
    kernel, served = module.kernel, []
    replacement(module, served).install()
    module.call()
    assert served == [(("x", "y", 3), {})]
    assert not kernel.started


def test_what_it_does_not_serve_the_kernel_gets_with_the_same_grid_and_arguments(module: Upstream) -> None:
    kernel, served = module.kernel, []
    replacement(module, served, answer=False).install()
    module.kernel[(2,)]("x", "y", SIZE=3)
    assert served == [(("x", "y"), {"SIZE": 3})]
    assert kernel.started == [((2,), ("x", "y"), {"SIZE": 3})]


def test_if_it_raises_the_kernel_is_started_and_the_reason_is_counted(
    module: Upstream,
) -> None:
    kernel = module.kernel

    def serve(*arguments: Any, **named: Any) -> bool:
        raise KeyError("eps")

    Replacement(module, "kernel", lambda original, is_on: StandIn(original, is_on, serve)).install()
    before = ledger.fallbacks()
    module.call()
    assert ledger.fallbacks() - before == {"arguments of another kind: KeyError": 1}
    assert kernel.started == [((2,), ("x", "y", 3), {})]


def test_disable_restores_the_identical_kernel_and_a_copy_hands_its_calls_to_it(module: Upstream) -> None:
    kernel, served = module.kernel, []
    made = replacement(module, served)
    made.install()
    copy = module.kernel
    for state, called in (("taken back", 1), ("applied", 2)):
        module.call()
        made.undo()
        assert module.kernel is kernel
        started = len(kernel.started)
        module.call()
        copy[(2,)]("x", "y", 3)
        assert len(served) == called
        assert len(kernel.started) == started + 2
        assert made.state().startswith("taken back"), state
        assert made.resume()
    assert made.state() == "applied"


def test_a_wrapper_that_others_put_around_it_is_seen_to_call_it(module: Upstream) -> None:
    made = replacement(module, [])
    made.install()
    inner = module.kernel

    class Wrapper:
        def __init__(self) -> None:
            self.inner = inner

        def __getitem__(self, grid: Any) -> Any:
            return self.inner[grid]

    module.kernel = Wrapper()
    assert made.serves()
    assert "wrapped by" in made.state()
    module.kernel = Kernel()
    assert made.state().startswith("gone: ")


def test_whatever_else_is_asked_of_it_the_kernel_answers(module: Upstream) -> None:
    replacement(module, []).install()
    assert module.kernel.warmup() == "warm"
    assert not hasattr(module.kernel, "no_such_thing")
    assert not hasattr(module.kernel, "__code__")


def test_a_kernels_function_is_found_through_what_is_around_it() -> None:
    kernel = Kernel()
    assert function_of(types.SimpleNamespace(fn=kernel)) is kernel.fn
    assert function_of(kernel.fn) is kernel.fn
    assert function_of(None) is None
