"""Norm and rotation in one launch, compared with fp64: shapes, types, ways to get cosines, gates and biases."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the kernel's tests need torch")
pytest.importorskip("triton", reason="the kernel's tests need triton")

from rope_patch.kernels.orders import lanes  # noqa: E402
from tests.normed import assert_normed, normed  # noqa: E402

QWEN3_VL, QWEN3_5 = lanes("interleaved", 64, 20, 20), lanes("interleaved", 32, 11, 10)
FP32 = {"cache_dtype": torch.float32, "positions_dtype": torch.int32}
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "Qwen3": ((67, 8, 2, 128, 128), {}),
    "GLM-4.5": ((67, 12, 1, 128, 64), {"dtype": torch.float16}),
    "with biases": ((9, 4, 2, 128, 128), {"has_bias": True}),
    "partial, with biases": ((9, 4, 2, 128, 64), {"has_bias": True}),
    "weights in fp32": ((5, 4, 2, 64, 64), {"weight_dtype": torch.float32}),
    "a cache in fp32, positions in int32": ((5, 4, 2, 128, 64), FP32),
    "gathered apart, as by 0.13": ((9, 5, 1, 128, 128), {"gathered": "apart"}),
    "gathered together": ((9, 4, 2, 128, 128), {"gathered": "together"}),
    "Qwen3-VL": ((9, 4, 2, 128, 128), {"gathered": "together", "axes": QWEN3_VL}),
    "Qwen3.5": ((9, 4, 2, 256, 64), {"gathered": "together", "axes": QWEN3_5, "has_gate": True}),
    "three positions, by a cache": ((9, 4, 2, 128, 64), {"axes": lanes("chunked", 32, 12, 12)}),
    "a gate": ((9, 6, 2, 128, 128), {"has_gate": True}),
    "odd heads": ((5, 3, 3, 80, 32), {}),
    "rows beside each other": ((33, 4, 1, 128, 128), {"strided": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_result_is_rounded_once(name: str) -> None:
    numbers, options = CASES[name]
    case = normed(*numbers, **options)
    case.launch()
    assert_normed(case)
