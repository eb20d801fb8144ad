"""The kernel's own launcher is recorded from Triton's call of it; if that call looks different, there is none."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rope_patch.kernels.runner import QUEUES, is_queued, recorded


class Compiled:
    """A double of Triton's compiled kernel. Its launcher has one of two names, depending on the version."""

    def __init__(self, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        vars(self)[name] = self.run_it
        self.name = name

    def run_it(self, *handed: Any) -> None:
        self.calls.append(handed)

    def launch(self, arguments: tuple[Any, ...], programs: int = 3, extra: tuple[Any, ...] = ()) -> "Compiled":
        """Call the launcher as ``kernel[grid](*arguments)`` does."""
        vars(self)[self.name](programs, 1, 1, 77, "function", "metadata", None, None, None, *arguments, *extra)
        return self


@pytest.mark.parametrize("name", ["run", "_run"])
@pytest.mark.parametrize("extra", [(), ("constant", 5)], ids=["3.2", "3.3 and newer"])
def test_the_recorded_call_is_repeated_with_other_addresses(name: str, extra: tuple[Any, ...]) -> None:
    kernel, arguments = Compiled(name), (object(), None, 4096)
    launcher = recorded(lambda: kernel.launch(arguments, extra=extra), 3, arguments)
    assert launcher is not None
    kernel.calls.clear()
    launcher.start(2, 88, (111, None, 222))
    before = ("function", "metadata", None, None, None)
    assert kernel.calls == [(2, 1, 1, 88, *before, 111, None, 222, *extra)]
    assert vars(kernel)[name] == kernel.run_it, "the launcher is no longer watched"


@pytest.mark.parametrize("holder", ["knobs", "compiler"])
def test_chains_of_hooks_are_not_repeated_since_hooks_may_be_added_to_them_later(
    monkeypatch: pytest.MonkeyPatch, holder: str
) -> None:
    """Triton hands its launcher the two chains; while they are empty a launcher is recorded, without them."""
    chains = [SimpleNamespace(calls=[]), SimpleNamespace(calls=[])]
    hooks = SimpleNamespace(launch_enter_hook=chains[0], launch_exit_hook=chains[1])
    of_knobs = SimpleNamespace(knobs=SimpleNamespace(runtime=hooks))
    of_compiler = SimpleNamespace(compiler=SimpleNamespace(CompiledKernel=hooks))
    monkeypatch.setitem(sys.modules, "triton", of_knobs if holder == "knobs" else of_compiler)
    kernel, arguments = Compiled("run"), (object(), 7)

    def start() -> Compiled:
        vars(kernel)["run"](3, 1, 1, 77, "function", "metadata", *chains, *arguments, "constant")
        return kernel

    launcher = recorded(start, 3, arguments)
    assert launcher is not None
    assert launcher.before == ("function", "metadata", None, None)
    assert launcher.after == ("constant",)
    chains[1].calls.append(print)
    assert recorded(start, 3, arguments) is None, "hooks are set, and would see no launch"


def test_a_call_that_looks_different_gives_no_launcher() -> None:
    arguments = (object(), object())
    kernel = Compiled("run")
    assert recorded(lambda: kernel.launch(arguments[::-1]), 3, arguments) is None, "the arguments in another order"
    assert recorded(lambda: kernel.launch(arguments, programs=4), 3, arguments) is None, "another grid"
    assert recorded(lambda: Compiled("start").launch(arguments), 3, arguments) is None, "kept under another name"
    assert recorded(lambda: None, 3, arguments) is None, "an interpreter has no kernel"


def test_another_threads_launch_of_the_same_kernel_is_not_mistaken_for_ours() -> None:
    kernel, arguments, others = Compiled("run"), (object(), 5), (object(), 5)

    def start() -> Compiled:
        kernel.launch(others)
        return kernel.launch(arguments)

    launcher = recorded(start, 3, arguments)
    assert launcher is not None
    assert not any(value is others[0] for value in (*launcher.before, *launcher.after))
    assert recorded(lambda: kernel.launch(others), 3, arguments) is None


def test_after_a_failure_the_launcher_is_no_longer_watched() -> None:
    kernel, arguments = Compiled("run"), (object(),)
    launches = iter([kernel])

    def start() -> Compiled:
        return next(launches)

    with pytest.raises(StopIteration):
        recorded(start, 3, arguments)
    assert vars(kernel)["run"] == kernel.run_it


def test_a_launcher_goes_through_the_queue_only_if_its_library_says_so(tmp_path: Path) -> None:
    def launcher(content: bytes | None) -> Any:
        library = tmp_path / "launcher.so"
        library.unlink(missing_ok=True)
        if content is not None:
            library.write_bytes(content)
        return SimpleNamespace(launch=SimpleNamespace(__self__=SimpleNamespace(__file__=str(library))))

    assert is_queued(launcher(b"\0_ZN6at_npu6native9" + QUEUES + b"\0"))
    assert not is_queued(launcher(b"\0rtKernelLaunch\0"))
    assert not is_queued(launcher(None)), "deleted since it was loaded"
    assert not is_queued(lambda *handed: None), "an unknown kind of launcher"
