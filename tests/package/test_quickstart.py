"""What ``scripts/quickstart.sh`` decides to run, by machine. Its installing and generating are replaced by an ``echo``.

A fraction of a second each. The engine that it then shows is tested in ``tests/ascend_stack``.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ascend_stack.tested import NEWEST
from tests.conftest import ROOT

TOOLS = ("bash", "dirname", "cat", "mkdir", "sleep", "tail", "flock", "uname")
DEBIAN = ("g++", "readelf", "mlir-translate-19", "llc-19")  # what the host CANN needs beside Python
INSTEAD = """
stack_environment() { echo "stack $1 installed"; }
vllm_environment() { echo "vllm installed"; }
quietly() { echo "quietly: $*"; case $* in *apt-get*) return ${APT:-0};; esac; }
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A copy of the scripts, and a folder ``bin`` with all commands that they find."""
    scripts, binaries = tmp_path / "scripts", tmp_path / "bin"
    (scripts / "releases").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "releases" / "tested.txt", scripts / "releases")
    binaries.mkdir()
    shutil.copy(ROOT / "scripts" / "quickstart.sh", scripts)
    (scripts / "environments.sh").write_text((ROOT / "scripts" / "environments.sh").read_text() + INSTEAD)
    for tool in TOOLS:
        (binaries / tool).symlink_to(shutil.which(tool) or tool)
    for program in (*DEBIAN, "apt-get"):
        command(tmp_path, program, "true")
    command(tmp_path, "id", "echo 0")
    command(tmp_path, "python3", 'case "$*" in *version_info*) ;; *) echo "python3 $*";; esac')
    command(tmp_path, "../.venvs/vllm/bin/python", 'echo "vllm: $*"')
    return tmp_path


def command(machine: Path, name: str, text: str) -> None:
    path = machine / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


def quickstart(machine: Path, **variables: str) -> str:
    environment = {"PATH": str(machine / "bin"), "HOME": os.environ.get("HOME", "/")} | variables
    script = machine / "scripts" / "quickstart.sh"
    done = subprocess.run([script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_it_shows_vllm_ascends_engine(machine: Path) -> None:
    said = quickstart(machine)
    assert f"stack {NEWEST} installed" in said
    assert said.splitlines()[-1] == f"python3 -m tests.ascend_stack.engine GLM-4 Phi-3 --release {NEWEST}"
    assert "apt-get" not in said, "nothing is missing"


def test_as_root_it_installs_what_is_missing(machine: Path) -> None:
    (machine / "bin" / "llc-19").unlink()
    said = quickstart(machine)
    assert "apt-get install --yes --no-install-recommends llvm-19" in said
    assert "tests.ascend_stack.engine" in said


@pytest.mark.parametrize(
    ("lacks", "program", "text", "why"),
    [
        ("llc-19", "id", "echo 1000", "Debian packages that it takes are missing"),
        ("apt-get", "g++", "", "Debian packages that it takes are missing"),
        ("python3", "python3", 'case "$*" in --version) echo Python 3.12.1;; *version_info*) exit 1;; esac', "3.12.1"),
        ("uname", "uname", "echo Linux aarch64", "Linux aarch64"),
    ],
)
def test_otherwise_it_says_why_and_shows_the_cpu_engine(
    machine: Path, lacks: str, program: str, text: str, why: str
) -> None:
    (machine / "bin" / lacks).unlink()
    if text:
        command(machine, program, text)
    else:
        (machine / "bin" / program).unlink()
    said = quickstart(machine)
    assert "not vllm-ascend's engine, since" in said
    assert why in said
    assert said.splitlines()[-1] == "vllm: scripts/quickstart.py"


def test_packages_that_cannot_be_installed_end_it_in_the_cpu_engine(machine: Path) -> None:
    (machine / "bin" / "llc-19").unlink()
    assert quickstart(machine, APT="1").splitlines()[-1] == "vllm: scripts/quickstart.py"


def test_on_an_npu_it_uses_that(machine: Path) -> None:
    command(machine, "npu-smi", "true")
    command(machine, "../.venvs/npu/bin/python", 'echo "npu: $*"')
    assert quickstart(machine).splitlines()[-1] == "npu: scripts/quickstart.py"
