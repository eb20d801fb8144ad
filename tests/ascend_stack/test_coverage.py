"""The coverage table of the targets' README: each cell is checked by a call on the installed release.

Run in each environment of ``stack_environment``, on the host CANN; see the README there.
"""

import importlib
import itertools
import pkgutil
from typing import Any

import pytest
from packaging.version import Version

from tests.ascend_stack import other_classes, test_mrope_served, test_norm_rotation
from tests.ascend_stack.harness import Stack, is_ours, needs_stack, start
from tests.ascend_stack.models import DEEPSEEK, LLAMA3, YARN
from tests.ascend_stack.tested import having
from tests.conftest import ROOT

COVERAGE = ROOT / "rope_patch" / "patching" / "targets" / "README.md"

pytestmark = needs_stack
HEADING = ("class", "rotary", *sorted(having("classes"), key=Version), "why")
OPERATORS = ("operator", "who calls it", *HEADING[2:])
ABSENT = "\N{EN DASH}"  # this release's vLLM does not have the class
# For each class, the rope_type for which vLLM makes it, and its parameters.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "RotaryEmbedding": ("default", {}),
    "YaRNScalingRotaryEmbedding": ("yarn", YARN),
    "Llama3RotaryEmbedding": ("llama3", LLAMA3),
    "LinearScalingRotaryEmbedding": ("linear", {"factor": 2.0}),
    "NTKScalingRotaryEmbedding": ("ntk", {"factor": 2.0}),
    "DynamicNTKScalingRotaryEmbedding": ("dynamic", {"factor": 2.0}),
    "DynamicNTKAlphaRotaryEmbedding": ("dynamic", {"alpha": 2.0}),
    "Gemma4RotaryEmbedding": ("proportional", {}),
    "TeleChat3RoPEScaledRotaryEmbedding": ("telechat3-yarn", YARN),
    "MRotaryEmbedding": ("default", {"mrope_section": [16, 24, 24]}),
    "MRotaryEmbeddingInterleaved": ("openpangu", {"mrope_section": [16, 24, 24], "mrope_interleaved": True}),
    "BailingMRotaryEmbedding": ("bailing_mrope", {"mrope_section": [24, 20, 20]}),
    "Ernie4_5_VLRotaryEmbedding": ("ernie", {"mrope_section": [22, 22, 20]}),
    "DeepseekScalingRotaryEmbedding": ("deepseek_yarn", DEEPSEEK),
}


def rows(heading: tuple[str, ...] = HEADING) -> list[tuple[str, ...]]:
    """A table as rows of cells without back quotes, one row for each class that a line names."""
    lines = [
        tuple(cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|"))
        for line in COVERAGE.read_text().splitlines()
        if line.startswith("|")
    ]
    body = lines[lines.index(heading) + 2 :]
    body = list(itertools.takewhile(lambda row: len(row) == len(heading) and row[0] != "operator", body))
    return [(name, *row[1:]) for row in body for name in row[0].split(", ")]


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def classes() -> dict[str, type]:
    """All classes of vLLM's package, by name."""
    from vllm.model_executor.layers import rotary_embedding as package

    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return {name: cls for module in modules for name, cls in vars(module).items() if isinstance(cls, type)}


def path(stack: Stack, name: str, rotary: str) -> str:
    """Call the class once; return who served: our kernel, or the native code."""
    from rope_patch.reporting import ledger

    if name not in classes():
        return ABSENT
    if name not in KINDS:
        ledger.reset()
        found = other_classes.called(stack, name)
        return "kernel" if ledger.calls() else found
    kind, parameters = KINDS[name]
    head_size = 64 if kind == "deepseek_yarn" else 128
    if kind == "ernie":  # its model makes it
        embedding = test_mrope_served.build(stack, test_mrope_served.MODELS["ERNIE-4.5-VL"])
    elif rotary == "partial":
        halved = {"mrope_section": [8, 12, 12]} if "mrope_section" in parameters else {}
        embedding = stack.build(kind, head_size, 64, **parameters | halved)
    else:
        embedding = stack.build(kind, head_size, dtype=stack.torch.float16, **parameters)
    assert name in [cls.__name__ for cls in type(embedding).__mro__[:2]], "vllm-ascend's subclass of it, or itself"
    torch = stack.torch
    query = torch.randn(3, 4, head_size).to(embedding.cos_sin_cache.dtype).npu()
    if kind != "deepseek_yarn":
        query = query.flatten(1)
    positions = torch.arange(3).npu()
    ledger.reset()
    with stack.step(embedding, positions):
        embedding(positions.expand(3, 3).contiguous() if "mrope_section" in parameters else positions, query, query + 0)
    return "kernel" if ledger.calls() else "native"


@pytest.mark.parametrize("row", rows(), ids=lambda row: "-".join(row[:2]))
def test_the_readmes_table_says_who_serves(stack: Stack, row: tuple[str, ...]) -> None:
    if stack.version not in HEADING:
        pytest.skip(f"the table has no column for {stack.version}")
    name, rotary = row[:2]
    assert row[HEADING.index(stack.version)] == path(stack, name, rotary), f"the targets' README: {name}"
    assert row[-1], "every line says why"


def test_the_table_has_every_class_of_this_release(stack: Stack) -> None:
    """A failure names a class that this release has added: who serves it?"""
    found = {name for name in classes() if "Rotary" in name and name != "RotaryEmbeddingBase"}
    assert found - {row[0] for row in rows()} == set(), f"{stack.version} has classes that the targets' README lacks"


def operator(stack: Stack, name: str) -> str:
    """Who serves a fused operator: our kernel, if a call of it does; native code, if its module has nothing of ours."""
    from rope_patch.reporting import ledger

    if not hasattr(stack.torch.ops.vllm, name):
        return ABSENT
    file = f"split_{name.removeprefix('triton_').removeprefix('split_')}"
    target = file.removeprefix("split_")
    if target not in stack.fused:
        module = importlib.import_module(f"vllm_ascend.ops.triton.linearnorm.{file}")
        assert not any(map(is_ours, vars(module).values()))
        return "native"
    model = {test_norm_rotation.ROPE: "Qwen3", test_norm_rotation.MROPE: "Qwen3-VL"}[target]
    ledger.reset()
    test_norm_rotation.call(stack, model, test_norm_rotation.made(stack, model, 1))
    return "kernel" if ledger.calls() else "native"


@pytest.mark.parametrize("row", rows(OPERATORS), ids=lambda row: row[0])
def test_the_readmes_table_says_who_serves_operators_that_norm_and_rotate(stack: Stack, row: tuple[str, ...]) -> None:
    if stack.version not in HEADING:
        pytest.skip(f"the table has no column for {stack.version}")
    assert row[OPERATORS.index(stack.version)] == operator(stack, row[0]), f"the targets' README: {row[0]}"
    assert row[-1], "every line says why"


def test_the_table_has_every_operator_of_this_release_that_norms_and_rotates(stack: Stack) -> None:
    """A failure names an operator that this release has added."""
    names = [schema.name.partition("::") for schema in stack.torch._C._jit_get_all_schemas()]
    found = {name for space, _, name in names if space == "vllm" and "norm" in name and "rope" in name}
    assert found - {row[0] for row in rows(OPERATORS)} == set()
