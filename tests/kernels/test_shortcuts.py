"""Functions that bypass PyTorch's dispatcher give what its public functions give, and are not used if they differ."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="devices are torch's")
pytest.importorskip("triton", reason="streams are triton's")

from rope_patch.kernels import shortcuts  # noqa: E402
from rope_patch.kernels.launch import INTERPRETED  # noqa: E402
from tests.rotations import DEVICE  # noqa: E402

on_device = pytest.mark.skipif(INTERPRETED, reason="an interpreter has no device")


@pytest.fixture(autouse=True)
def fresh_allocators() -> Any:
    shortcuts.allocator.cache_clear()
    yield
    shortcuts.allocator.cache_clear()


@on_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("inference", [False, True])
def test_an_allocated_tensor_is_as_any_other(dtype: Any, inference: bool) -> None:
    device = torch.empty(0, device=DEVICE).device
    with torch.inference_mode(inference):
        made = shortcuts.allocator(device)((3, 4, 8), (32, 8, 1), dtype)
        plain = torch.empty_strided((3, 4, 8), (32, 8, 1), dtype=dtype, device=device)
        for same in ("shape", "dtype", "device", "layout", "requires_grad"):
            assert getattr(made, same) == getattr(plain, same)
        for same in ("stride", "is_inference", "is_contiguous", "storage_offset", "get_device"):
            assert getattr(made, same)() == getattr(plain, same)()
        assert made.untyped_storage().nbytes() == plain.untyped_storage().nbytes()
        values = torch.arange(96).reshape(3, 4, 8).to(dtype)
        made.copy_(values)
        assert torch.equal(made.cpu(), values)
        assert torch.equal(made.transpose(0, 2).contiguous().cpu(), values.transpose(0, 2))
        assert torch.equal(made.view(12, 8)[::2].clone().cpu(), values.view(12, 8)[::2])


@on_device
def test_on_a_device_whose_pytorch_has_such_a_function_it_is_used() -> None:
    module, name = shortcuts.ALLOCATORS[torch.device(DEVICE).type]
    entry = getattr(sys.modules[module], name, None)
    if entry is None:
        pytest.skip(f"this version has no {module}.{name}")
    assert shortcuts.allocator(torch.empty(0, device=DEVICE).device) is entry


def right(shape: Any, strides: Any, dtype: Any) -> Any:
    return torch.empty_strided(shape, strides, dtype=dtype)


def raises(*arguments: Any) -> Any:
    raise TypeError("takes 4 arguments")


# Doubles for the CPU, on which no such function is looked for otherwise.
@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        (right, True),
        (None, False),
        (raises, False),
        (lambda shape, strides, dtype: None, False),
        (lambda shape, strides, dtype: right(shape, strides[::-1], dtype), False),
        (lambda shape, strides, dtype: right(shape, strides, torch.int8), False),
        (lambda shape, strides, dtype: right(shape[::-1], strides, dtype), False),
        (lambda shape, strides, dtype: torch.empty(shape, dtype=dtype, device="meta"), False),
    ],
    ids=["right", "none", "raises", "nothing", "other strides", "other dtype", "other shape", "other device"],
)
def test_a_function_that_gives_something_else_is_not_used(
    entry: Any, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shortcuts.ALLOCATORS, "cpu", ("tests.entries", "entry"))
    monkeypatch.setitem(sys.modules, "tests.entries", SimpleNamespace(**({"entry": entry} if entry else {})))
    allocate = shortcuts.allocator(torch.device("cpu"))
    assert (allocate is entry) == taken
    assert allocate((2, 3), (3, 1), torch.float16).stride() == (3, 1)


def test_without_such_a_function_tensors_come_from_empty_strided() -> None:
    made = shortcuts.allocator(torch.device("cpu"))((2, 3), (3, 1), torch.float16)
    assert (made.shape, made.stride(), made.dtype, made.device.type) == ((2, 3), (3, 1), torch.float16, "cpu")
