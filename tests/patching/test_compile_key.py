"""The key of vLLM's compile cache tells two builds of one version apart, so that none runs a graph of the other's."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rope_patch.patching.targets.environment_variable import source_hash
from tests.conftest import DOUBLES, ROOT, Run

KEY = """
import rope_target, rope_patch, vllm.envs
import vllm.model_executor.layers.rotary_embedding.base
print(vllm.envs.environment_variables["VLLM_ASCEND_TRITON_ROPE"]())
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package's source at another place."""
    made = tmp_path / "there" / "rope_patch"
    shutil.copytree(ROOT / "rope_patch", made, ignore=shutil.ignore_patterns("__pycache__"))
    return made


def appended(path: Path) -> None:
    path.write_text(path.read_text() + "# changed\n")


def some(package: Path, pattern: str) -> Path:
    return min(package.glob(pattern))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file at the top": lambda package: appended(some(package, "[a-z]*.py")),
    "a file of a room": lambda package: appended(some(package, "*/[a-z]*.py")),
    "a file of a room's room": lambda package: appended(some(package, "*/*/[a-z]*.py")),
    "a new name": lambda package: some(package, "*/[a-z]*.py").rename(package / "another.py"),
    "a new file": lambda package: (package / "new.py").touch(),
    "a missing file": lambda package: some(package, "*/[a-z]*.py").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_in_the_source_changes_the_hash(copied: Path, change: Callable[[Path], object]) -> None:
    before = source_hash(copied)
    change(copied)
    assert source_hash(copied) != before


def test_the_same_source_has_the_same_hash_wherever_and_whenever_it_was_installed(copied: Path) -> None:
    (copied / "__pycache__").mkdir()
    (copied / "__pycache__" / "settings.cpython-311.pyc").write_bytes(b"compiled")
    (copied / "README.md").write_text("a wheel has none of these\n")
    assert source_hash(copied) == source_hash(ROOT / "rope_patch")


def test_the_key_of_a_process_is_that_of_the_source_that_it_runs(python: Run, copied: Path) -> None:
    keys = []
    for change in (None, appended):
        if change:
            change(copied / "__init__.py")
        keys.append(python(KEY, path=(copied.parent, DOUBLES)).splitlines()[-1])
        assert f"({source_hash(copied)}): on, rotary_embedding" in keys[-1]
    assert keys[0] != keys[1]


def test_source_that_cannot_be_read_does_not_stop_it(with_doubles: Run) -> None:
    code = "import os\ndef walk(*_): raise PermissionError('no reading here')\nos.walk = walk\n" + KEY
    assert "(source not read, no reading here): on, rotary_embedding" in with_doubles(code)
