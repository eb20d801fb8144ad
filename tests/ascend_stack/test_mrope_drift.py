"""Why ``targets/mrope.py`` and ``targets/ascend_mrope.py`` are there, read in upstream's source, which is not imported.

A failure says which defect was mended, or has moved. What upstream computes without us is in ``test_mrope_served.py``;
what the targets rely on besides, in ``test_drift.py``.
"""

import ast
import functools
import importlib.util
from pathlib import Path

import pytest

from tests.ascend_stack.release import VERSION, since

ABSENT = [name for name in ("vllm", "vllm_ascend") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"no {' and no '.join(ABSENT)}: needs a stack's environment")
LAYERS = "model_executor/layers/rotary_embedding"


@functools.cache
def definitions(package: str, path: str) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    """The classes and functions of one file, methods as ``Class.method``; none if there is no such file."""
    origin = importlib.util.find_spec(package).origin
    file = Path(str(origin)).parent / path
    found: dict[str, ast.ClassDef | ast.FunctionDef] = {}
    for node in ast.parse(file.read_text() if file.exists() else "").body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
            inner = [child for child in node.body if isinstance(child, ast.FunctionDef)]
            found |= {f"{node.name}.{child.name}": child for child in inner}
    return found


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    """The calls in ``node`` whose last name is ``name``."""
    found = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return [call for call in found if ast.unparse(call.func).split(".")[-1] == name]


def ascends_forward() -> ast.FunctionDef:
    return definitions("vllm_ascend", "ops/rotary_embedding.py")["AscendMRotaryEmbedding.forward_oot"]


def has_triton_way() -> bool:
    """0.13 and newer."""
    return "AscendMRotaryEmbedding.forward_triton" in definitions("vllm_ascend", "ops/rotary_embedding.py")


def test_vllms_classes_have_no_forward_oot_of_their_own() -> None:
    for file, name in (("mrope.py", "MRotaryEmbedding"), ("ernie45_vl_rope.py", "Ernie4_5_VLRotaryEmbedding")):
        found = definitions("vllm", f"{LAYERS}/{file}")
        assert f"{name}.forward_native" in found, f"{name} no longer has the forward_native that targets/mrope.py knows"
        assert f"{name}.forward_oot" not in found, (
            f"vLLM's {name} has a forward_oot of its own now: its PyTorch operators may be gone, see targets/mrope.py"
        )


def test_classes_of_an_order_of_their_own_are_where_the_target_looks_for_them() -> None:
    from rope_patch.patching.targets.mrope import ALTERNATING

    found = {}
    for module, name in ALTERNATING:
        package, *path = module.split(".")
        found[name] = name in definitions(package, "/".join(path) + ".py")
    assert found == {"Ernie4_5_VLRotaryEmbedding": True, "BailingMRotaryEmbedding": since("0.30.0rc1")}, (
        "a class has moved: its models would be handed to PyTorch's operators, see targets/mrope.py"
    )


def test_openpangus_class_never_dispatches() -> None:
    found = definitions("vllm", f"{LAYERS}/mrope_interleaved.py")
    assert bool(found) == (not VERSION.startswith(("0.11", "0.13"))), "openPangu's class has moved"
    if not found:
        pytest.skip("this release has no openPangu-VL")
    assert "MRotaryEmbeddingInterleaved.forward" in found, (
        "openPangu's class dispatches to forward_oot now: targets/mrope.py would be asked, and its order is another one"
    )


def test_npu_mrope_is_called_for_its_sections_only_and_everything_else_goes_to_pytorch() -> None:
    source = ast.unparse(ascends_forward())
    assert "self.mrope_section != [16, 24, 24]" in source, (
        "vllm-ascend calls npu_mrope for other sections now: see OF_THE_VENDOR in targets/ascend_mrope.py"
    )
    assert len(calls(ascends_forward(), "forward_oot")) == 1, (
        "vllm-ascend no longer hands GLM-4.1V and GLM-4.5V to PyTorch's operators: see targets/ascend_mrope.py"
    )


def test_npu_mrope_is_not_told_the_style() -> None:
    assert "is_neox_style" not in ast.unparse(ascends_forward()), (
        "vllm-ascend heeds is_neox_style for three positions now (its #12765): GLM-OCR may be right without us"
    )


def test_interleaved_sections_go_to_triton_mrope_where_it_is_used() -> None:
    assert has_triton_way() == (not VERSION.startswith("0.11")), "vllm-ascend's way to triton_mrope has moved"
    if not has_triton_way():
        pytest.skip("this release has no triton_mrope on Ascend")
    assert len(calls(ascends_forward(), "forward_triton")) == 1, (
        "interleaved sections no longer go to vLLM's triton_mrope: see targets/ascend_mrope.py"
    )
    assert "self.mrope_interleaved" in ast.unparse(ascends_forward()), (
        "others than interleaved sections go to triton_mrope too: `gathers` in targets/ascend_mrope.py says otherwise"
    )


def test_triton_mrope_wants_gathered_cosines_and_eight_arguments_or_nine_of_which_it_gets_eight() -> None:
    """Nine from 0.27.1rc1 on: Qwen3-VL's and Qwen3.5's calls of the class raise a TypeError natively."""
    assert has_triton_way() == (not VERSION.startswith("0.11")), "vllm-ascend's way to triton_mrope has moved"
    if not has_triton_way():
        pytest.skip("this release has no triton_mrope on Ascend")
    forward = definitions("vllm_ascend", "ops/rotary_embedding.py")["AscendMRotaryEmbedding.forward_triton"]
    assert "self.cos_sin_cache[positions]" in ast.unparse(forward), "cosines are no longer gathered for triton_mrope"
    (call,) = calls(forward, "triton_mrope")
    kernel = definitions("vllm", f"{LAYERS}/mrope.py")["triton_mrope"]
    assert isinstance(kernel, ast.FunctionDef)
    names = [argument.arg for argument in kernel.args.args]
    nine = since("0.27.1rc1")
    assert ("is_neox_style" in names) == nine, "vLLM's triton_mrope knows GPT-J or not: see targets/ascend_mrope.py"
    given, wanted = len(call.args) + len(call.keywords), len(names) - len(kernel.args.defaults)
    assert (given, wanted) == (8, 8 + nine), "vllm-ascend's call of triton_mrope fits vLLM's or not: who is served so?"


def test_triton_mrope_copies_and_starts_a_program_a_token() -> None:
    source = ast.unparse(definitions("vllm", f"{LAYERS}/mrope.py")["triton_mrope"])
    for line in ("q = q.contiguous()", "k = k.contiguous()", "_triton_mrope_forward[n_row,]"):
        assert line in source, f"vLLM's triton_mrope is arranged in another way, without {line}: is it still slower?"
