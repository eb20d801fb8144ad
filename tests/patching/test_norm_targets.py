"""The targets for kernels that norm and rotate, on doubles of vllm-ascend's modules: what is served, and what is not.

``tests/ascend_stack`` tests them on the real packages.
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="calls need torch")
pytest.importorskip("triton", reason="calls need triton")

from rope_patch import settings  # noqa: E402
from rope_patch.operators import dispatch  # noqa: E402
from rope_patch.patching.targets import NotApplicable, mrope, qkv_rmsnorm_mrope, qkv_rmsnorm_rope  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from rope_patch.settings import CHECK, parse  # noqa: E402
from tests.norm_rotations import Case, assert_right, case  # noqa: E402

ON = parse({})
ROPE = {"0.13": qkv_rmsnorm_rope.OF_0_13, "0.15": qkv_rmsnorm_rope.OF_0_15, "0.16": qkv_rmsnorm_rope.FROM_0_16}
# What upstream calls the parameters, by release, where names are not the same in all.
ANGLES = {
    "0.13": lambda cos, sin, positions: {"cos_ptr": cos, "sin_ptr": sin},
    "0.15": lambda cos, sin, positions: {"cos_sin_ptr": cos, "pos_ptr": positions},
    "0.16": lambda cos, sin, positions: {"cos_sin_cache_gm_ptr": cos, "positions_gm_ptr": positions},
}


class Kernel:
    """As Triton's, with these parameters; notes which calls came to it."""

    def __init__(self, parameters: list[str]) -> None:
        exec(f"def fn({', '.join(parameters)}): pass", vars(self))
        self.started: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda *arguments: self.started.append(arguments)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the check before a first use: ``tests/operators/test_norm_rotation.py`` has that."""
    monkeypatch.setattr(settings, "current", lambda: parse({CHECK: "0"}))
    dispatch.forget()
    yield
    dispatch.forget()


def rope_arguments(release: str, given: Case) -> list[Any]:
    """The kernel's, in its order, as upstream's operator makes them."""
    tensors, asked = given.tensors, given.asked
    ending = "_gm_ptr" if release == "0.16" else "_ptr"
    places = {name + ending: one for name, one in zip(("input", "q", "k", "v"), tensors, strict=False)}
    weights = {f"{name}_ptr": getattr(tensors, name) for name in ("q_weight", "k_weight", "q_bias", "k_bias")}
    q, kv = (number * asked.head_size for number in (asked.num_heads, asked.num_kv_heads))
    sizes = {
        "batch_size": len(tensors.qkv), "q_hidden_size": q, "kv_hidden_size": kv, "total_hidden_size": q + 2 * kv,
        "eps": asked.eps, "BIAS": tensors.q_bias is not None, "HEAD_DIM": asked.head_size, "ROPE_DIM": asked.rotary_dim,
    }  # fmt: skip
    named = places | weights | sizes | ANGLES[release](*given.angles)
    return [named.get(name, 1) for name in ROPE[release]]


def mrope_arguments(given: Case) -> list[Any]:
    tensors, asked = given.tensors, given.asked
    gate = tensors.gate
    q, kv = (number * asked.head_size for number in (asked.num_heads, asked.num_kv_heads))
    named = {
        "in_qkv_ptr": tensors.qkv, "out_q_ptr": tensors.query, "out_k_ptr": tensors.key, "out_v_ptr": tensors.value,
        "out_gate_ptr": tensors.qkv.new_empty(len(tensors.qkv), 0) if gate is None else gate,
        "gate_size": 0 if gate is None else q, "cos_sin_ptr": given.angles.cos, "num_tokens": len(tensors.qkv),
        "num_q_heads": asked.num_heads, "num_kv_heads": asked.num_kv_heads, "head_size": asked.head_size,
        "q_size": q, "kv_size": kv, "eps": asked.eps, "has_bias": tensors.q_bias is not None,
        **{f"mrope_section_{axis}": asked.axes.count(axis) for axis in "thw"},
        "is_interleaved": asked.axes[1] == "h", "rope_dim": asked.rotary_dim,
    }  # fmt: skip
    named |= {f"{name}_ptr": getattr(tensors, name) for name in ("q_weight", "k_weight", "q_bias", "k_bias")}
    return [named.get(name, 1) for name in qkv_rmsnorm_mrope.PARAMETERS]


def installed(target: ModuleType, parameters: list[str]) -> tuple[Any, Kernel]:
    """The target's replacement in a module whose kernel has these parameters, and that kernel."""
    module = ModuleType("upstream")
    kernel = Kernel(parameters)
    setattr(module, target.NAME, kernel)
    made = target.replacement(module, ON)
    made.install()
    return module, kernel


def start(target: ModuleType, module: ModuleType, arguments: list[Any]) -> None:
    getattr(module, target.NAME)[(40, 1, 1)](*arguments)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("release", ROPE)
def test_a_call_of_the_rope_kernel_is_served(release: str, bias: bool) -> None:
    module, kernel = installed(qkv_rmsnorm_rope, ROPE[release])
    rotary_dim = 64 if release == "0.16" else 128
    given = case(7, rotary_dim=rotary_dim, bias=bias, gathered="apart" if release == "0.13" else "")
    start(qkv_rmsnorm_rope, module, rope_arguments(release, given))
    assert_right(given)
    assert (ledger.calls(), kernel.started) == ({"fused": 1}, [])


CHUNKED = "t" * 8 + "h" * 12 + "w" * 12
MODELS = {
    "Qwen3-VL": (128, 128, "thw" * 20 + "t" * 4, False),
    "Qwen3.5": (256, 64, "thw" * 10 + "th", True),
    "chunked": (128, 64, CHUNKED, False),
}


@pytest.mark.parametrize(("head_size", "rotary_dim", "axes", "gate"), MODELS.values(), ids=MODELS)
def test_a_call_of_the_mrope_kernel_is_served(head_size: int, rotary_dim: int, axes: str, gate: bool) -> None:
    module, kernel = installed(qkv_rmsnorm_mrope, qkv_rmsnorm_mrope.PARAMETERS)
    given = case(7, head_size=head_size, rotary_dim=rotary_dim, axes=axes, gate=gate, gathered="rows")
    start(qkv_rmsnorm_mrope, module, mrope_arguments(given))
    assert_right(given)
    assert (ledger.calls(), kernel.started) == ({"fused": 1}, [])


def test_what_the_kernel_cannot_take_starts_upstreams_with_the_same_arguments_and_is_counted() -> None:
    module, kernel = installed(qkv_rmsnorm_rope, ROPE["0.16"])
    given = case(7, positions_dtype=torch.int16)
    arguments = rope_arguments("0.16", given)
    start(qkv_rmsnorm_rope, module, arguments)
    assert [one is other for one, other in zip(kernel.started[0], arguments, strict=True)]
    assert ledger.fallbacks() == {"expected positions of int32 or int64": 1}
    assert given.tensors.query.isnan().all(), "nothing was written"


@pytest.mark.parametrize(
    "changed", [{"rope_dim": 128}, {"cos_sin_ptr": torch.zeros(7, 64)}], ids=["sections that do not fit", "one row"]
)
def test_calls_of_mrope_that_upstream_alone_knows_are_upstreams(changed: dict[str, Any]) -> None:
    module, kernel = installed(qkv_rmsnorm_mrope, qkv_rmsnorm_mrope.PARAMETERS)
    given = case(7, rotary_dim=64, axes=CHUNKED, gathered="rows")
    arguments = dict(zip(qkv_rmsnorm_mrope.PARAMETERS, mrope_arguments(given), strict=True)) | changed
    start(qkv_rmsnorm_mrope, module, list(arguments.values()))
    assert len(kernel.started) == 1
    (reason,) = ledger.fallbacks()
    one_row = "expected a row of cosines and sines for each token, [3, num_tokens, rotary_dim] with axes"
    assert reason == (mrope.UNKNOWN if "rope_dim" in changed else one_row)


def test_a_kernel_with_other_arguments_than_it_is_started_with_is_upstreams() -> None:
    module, kernel = installed(qkv_rmsnorm_rope, ROPE["0.16"])
    start(qkv_rmsnorm_rope, module, rope_arguments("0.16", case(3))[:-1])
    assert len(kernel.started) == 1
    assert ledger.fallbacks() == {"arguments of another kind: ValueError": 1}


@pytest.mark.parametrize(
    ("target", "parameters"),
    [(qkv_rmsnorm_rope, parameters) for parameters in ROPE.values()]
    + [(qkv_rmsnorm_mrope, qkv_rmsnorm_mrope.PARAMETERS)],
)
@pytest.mark.parametrize("drift", ["one more", "one less", "another order", "none"])
def test_a_kernel_with_other_parameters_stays_native(target: ModuleType, parameters: list[str], drift: str) -> None:
    module = ModuleType("upstream")
    changed = {
        "one more": [*parameters, "scale"], "one less": parameters[:-1],
        "another order": [*parameters[:-2], parameters[-1], parameters[-2]],
    }  # fmt: skip
    if drift != "none":
        setattr(module, target.NAME, Kernel(changed[drift]))
    with pytest.raises(NotApplicable, match=target.NAME):
        target.replacement(module, ON)
