"""Three ways in: ``import rope_patch``, a ``sitecustomize`` on PYTHONPATH, and vLLM's plugin entry point."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.conftest import DOUBLES, ROOT, Run

BOOTSTRAP = ROOT / "rope_patch" / "bootstrap"
SHOW = """
import vllm.model_executor.layers.rotary_embedding.base as base
print(base.Scaled()(1, 2, 3))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for the user's own ``sitecustomize``."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder


def test_sitecustomize_patches_a_process_that_never_names_rope_patch(python: Run) -> None:
    assert python("import rope_target" + SHOW, path=(BOOTSTRAP, DOUBLES)) == "ours"


def test_several_ways_in_at_once_are_harmless(python: Run) -> None:
    code = "import rope_target, rope_patch, rope_patch.vllm_plugin as p; p.register(); p.register()" + SHOW
    assert python(code, path=(BOOTSTRAP, BOOTSTRAP, DOUBLES)) == "ours"


def test_it_imports_the_sitecustomize_that_it_hides(python: Run, site: Path) -> None:
    (site / "sitecustomize.py").write_text("import sys; sys.path.append('added by theirs'); MARK = 'theirs'")
    code = "import sys, sitecustomize as s; print(s.MARK, 'added by theirs' in sys.path, 'rope_patch' in sys.modules)"
    assert python(code, path=(BOOTSTRAP, site)) == "theirs True True"


def test_the_bootstrap_folder_stays_first_on_the_path_for_child_processes(python: Run, site: Path) -> None:
    (site / "sitecustomize.py").write_text("")
    code = f"import sys; print([p for p in sys.path if p in ({str(BOOTSTRAP)!r}, {str(site)!r})])"
    assert python(code, path=(BOOTSTRAP, site)) == str([str(BOOTSTRAP), str(site)])


def test_python_reports_an_error_in_the_hidden_sitecustomize_and_continues(python: Run, site: Path) -> None:
    (site / "sitecustomize.py").write_text("raise ValueError('theirs')")
    printed = python("import sys; print('runs', 'rope_patch' in sys.modules)", path=(BOOTSTRAP, site))
    assert "ValueError: theirs" in printed
    assert printed.endswith("runs True")


@pytest.mark.parametrize("flag", ["-E", "-I"])
def test_an_isolated_interpreter_is_not_touched(python: Run, flag: str) -> None:
    code = "import sys; print('rope_patch' in sys.modules)"
    assert python(code, path=(BOOTSTRAP,), flags=(flag,)) == "False"


def test_an_interpreter_without_rope_patch_is_not_disturbed(python: Run, tmp_path: Path) -> None:
    """PYTHONPATH also reaches Pythons of other environments, where rope_patch is not installed."""
    copied = tmp_path / "bootstrap"
    copied.mkdir()
    (copied / "sitecustomize.py").write_text((BOOTSTRAP / "sitecustomize.py").read_text())
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    (blocker / "rope_patch.py").write_text("raise ModuleNotFoundError('no rope_patch here', name='rope_patch')")
    assert python("print('runs')", path=(copied, blocker)) == "runs"


def test_a_kill_switch_that_is_set_after_the_import_wins_over_force(with_doubles: Run) -> None:
    """As in a Ray worker, which gets its driver's variables after it has started."""
    code = """
import os, rope_patch, rope_patch.vllm_plugin as plugin
name = "vllm.model_executor.layers.rotary_embedding.base"
try:
    __import__(name)
except RuntimeError as error:
    print(type(error).__name__)
os.environ["VLLM_ASCEND_TRITON_ROPE"] = "0"
plugin.register()
import vllm.model_executor.layers.rotary_embedding.base as base
print(base.Scaled()(1, 2, 3))
"""
    printed = with_doubles(code, VLLM_ASCEND_TRITON_ROPE="force", DOUBLE_PLATFORM="cuda")
    assert printed.splitlines()[-2:] == ["NotCapable", "native"]


CHILD = """
import multiprocessing, sys
def child():
    import vllm.model_executor.layers.rotary_embedding.base as base
    print(base.Scaled()(1, 2, 3), flush=True)
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    process = context.Process(target=child)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("value", ["1", "0"])
def test_child_processes_are_patched_or_not_as_their_parent(
    python: Run, tmp_path: Path, method: str, value: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import rope_target, rope_patch\n" + CHILD.format(method=method))
    # As a script of its own, so that a spawned child can import its main module.
    code = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(script)!r}]))"
    printed = python(code, path=(DOUBLES,), VLLM_ASCEND_TRITON_ROPE=value)
    assert printed.splitlines()[-1] == {"1": "ours", "0": "native"}[value]


def test_the_plugin_entry_point_is_registered_and_loads() -> None:
    try:
        entry_points = distribution("rope-patch").entry_points
    except PackageNotFoundError:
        pytest.skip("rope_patch is not installed in this environment")
    (plugin,) = (entry for entry in entry_points if entry.group == "vllm.general_plugins")
    assert plugin.name == "rope_patch"  # the README names it, for those who set VLLM_PLUGINS
    plugin.load()()
