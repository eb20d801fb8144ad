"""Calls with three positions a token: launches are cached by layout, checked by their signature, and traced whole."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="rotations need torch")
pytest.importorskip("triton", reason="rotations need triton")

from rope_patch.kernels.launch import Launch  # noqa: E402
from rope_patch.operators import contract, dispatch  # noqa: E402
from rope_patch.operators.arguments import axes_of  # noqa: E402
from rope_patch.operators.rotation import KERNELS, Rotation  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from tests import interpreted_runner  # noqa: E402
from tests.rotations import Case, assert_rotated, rotation  # noqa: E402

SECTION = (8, 12, 12)
AXES = axes_of(SECTION, "chunked", 64)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    dispatch.forget()
    yield
    dispatch.forget()


def serve(case: Case) -> object:
    return contract.serve(case.positions, case.query, case.key, case.cache, case.asked)


def test_rows_that_lie_apart_otherwise_are_another_layout() -> None:
    """The distance between rows is an argument of the kernel, which a cached launch does not read from the tensor."""
    case = rotation(5, 4, 2, 128, 64, axes=AXES)
    for positions in (case.positions, case.positions, case.positions.contiguous(), case.positions[:1].expand(3, -1)):
        case.positions = positions
        query, key = serve(case)
        assert_rotated(case, case.query, query)
        assert_rotated(case, case.key, key)
    assert ledger.calls() == {"eager": 4}
    (name,) = ledger.signatures()
    assert "axes chunked 8 12 12" in name


def test_from_the_second_call_on_the_kernels_own_launcher_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted_runner.install(monkeypatch)
    launches: list[Launch] = []
    right = Launch.on
    monkeypatch.setattr(Launch, "on", lambda launch, *rest: (launches.append(launch), right(launch, *rest))[1])
    for seed in range(3):
        launches.clear()
        case = rotation(5, 2, 1, 64, 64, axes=AXES, seed=seed)
        query, _ = serve(case)
        assert_rotated(case, case.query, query)
        assert bool(launches) == (seed == 0)
    assert ledger.calls() == {"eager": 3}


@pytest.mark.parametrize("kernel", [kernel.function for kernel in KERNELS], ids=lambda kernel: kernel.__name__)
def test_what_a_launch_gives_at_run_time_comes_before_constants(kernel: Any) -> None:
    """Triton from 3.3 on hands constants to the launcher too, in their order: else no launcher would be found."""
    constant = ["constexpr" in str(p.annotation) for p in inspect.signature(kernel.fn).parameters.values()]
    assert constant == sorted(constant)
    assert kernel.arg_names[constant.index(True) - 1] == "axis_stride"


def test_an_order_of_axes_is_a_signature_of_its_own() -> None:
    for order in ("chunked", "interleaved"):
        case = rotation(5, 2, 1, 64, 64, axes=axes_of(SECTION, order, 64))
        query, _ = serve(case)
        assert_rotated(case, case.query, query)
    text = rotation(5, 2, 1, 64, 64)
    assert_rotated(text, text.query, serve(text)[0])
    assert len(ledger.signatures()) == 3


def test_a_kernel_that_turns_all_lanes_by_the_first_position_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rope_patch.kernels.shape.order_of", lambda axes: None)
    case = rotation(5, 2, 1, 64, 64, axes=AXES)
    assert serve(case) is None
    (reason,) = ledger.fallbacks()
    assert "first-use check failed" in reason


def test_sections_are_read_while_tracing() -> None:
    three = rotation(5, 2, 1, 64, 64, axes=AXES)

    class Module:
        def __init__(self) -> None:
            self.section = list(SECTION)

    def call(module: Module, positions: torch.Tensor) -> object:
        axes = axes_of(tuple(module.section), "chunked", 64)
        return contract.serve(positions, three.query, three.key, three.cache, Rotation(64, 64, True, axes))

    with torch.no_grad():
        query, _ = torch.compile(call, fullgraph=True, backend="aot_eager")(Module(), three.positions)
    assert_rotated(three, three.query, query)
