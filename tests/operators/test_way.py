"""The way of a call through the package: how often it stays in a file, and how often it comes back to one."""

import sys
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="calls need torch")
pytest.importorskip("triton", reason="calls need triton")

from rope_patch.operators import dispatch  # noqa: E402
from rope_patch.patching.targets import rotary_embedding as target  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.rotations import DEVICE, rotation  # noqa: E402

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="it is the same way on every device")

PACKAGE = f"{ROOT / 'rope_patch'}/"
INTERPRETER = "triton/runtime/interpreter.py"  # what it calls is the kernel's body, which a device runs


@pytest.fixture(autouse=True)
def fresh_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    dispatch.forget()
    interpreted_runner.install(monkeypatch)
    yield
    dispatch.forget()


def stays(call: Callable[[], Any]) -> list[str]:
    """The files of the package in the order in which functions of theirs are called."""
    found: list[str] = []
    inside: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if file.endswith(INTERPRETER):
            inside.append(file) if event == "call" else inside.pop() if event == "return" else None
        elif event == "call" and not inside and file.startswith(PACKAGE) and frame.f_code.co_name[0] != "<":
            name = file.removeprefix(PACKAGE)
            if found[-1:] != [name]:
                found.append(name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def call_of(num_tokens: int, strided: bool) -> Callable[[], Any]:
    case = rotation(num_tokens, 4, 2, 64, 64, strided=strided)
    module = SimpleNamespace(head_size=64, rotary_dim=64, is_neox_style=True, _buffers={"cos_sin_cache": case.cache})
    return lambda: target._rotate(module, case.positions, case.query, case.key)


@pytest.mark.parametrize(("strided", "most"), [(True, 25), (False, 26)], ids=["fresh", "in place"])
@torch.inference_mode()  # as vLLM calls
def test_a_layouts_first_call_and_a_later_one(strided: bool, most: int) -> None:
    """In place it also asks for Triton's launch hooks. The first-use check was made before."""
    call_of(2, strided)()
    first = stays(call_of(3, strided))
    assert len(first) <= most, "\n".join(first)
    assert len(first) - len(set(first)) <= 10, first
    later = [file for file in stays(call_of(3, strided)) if file != "kernels/shortcuts.py"]  # a CPU's way to allocate
    assert later == [
        "patching/targets/rotary_embedding.py",
        "operators/contract.py",
        "operators/dispatch.py",
        "serving/cached_launch.py",
    ]
