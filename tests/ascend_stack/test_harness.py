"""The harness itself, without a stack: whose code a function is."""

from typing import Any

from rope_patch import capability
from tests.ascend_stack import harness
from tests.conftest import ROOT


def function_of(file: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile("def function(): pass", file, "exec"), names)
    return names["function"]


def test_code_in_a_clone_whose_folder_is_called_rope_patch_is_not_ours() -> None:
    assert harness.is_ours(capability.examine)
    assert harness.is_ours(function_of(str(ROOT / "rope_patch" / "operators" / "contract.py")))
    for clone in (ROOT.parent / "rope_patch", ROOT / "rope_patch_clone" / "rope_patch"):
        assert not harness.is_ours(function_of(str(clone / ".venvs" / "stack" / "vllm" / "base.py")))
    assert not harness.is_ours(None)
