"""What all tests share: environment variables, and fixtures that run Python code in a new process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host_cann.fixture import npu  # noqa: F401  (a fixture for every test file)
from tests.host_cann.forks import OF_VLLM, Forks

ROOT = Path(__file__).parent.parent
DOUBLES = ROOT / "tests" / "doubles"

# Set before torch or triton is imported. Without an NPU, Triton has to interpret, and torch must not load torch-npu.
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
# Environments are installed without bytecode: whoever imports a module first keeps its own.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

Run = Callable[..., str]

# Flags for code that forks beside a thread on purpose: Python 3.12 and newer warn of that on standard error.
FORKS_BESIDE_THREADS = ("-W", "ignore:This process:DeprecationWarning")


def clean_environment() -> dict[str, str]:
    """This process's environment without the variables that rope_patch, the doubles or vLLM react to."""
    ours = ("VLLM_", "DOUBLE_", "ROPE_PATCH_", "PYTHONPATH", "TRITON_INTERPRET")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """Run code in a new interpreter and return its standard error, then its output. Fails unless it exits ``rc``."""

    def run(code: str, *, path: tuple[Path, ...] = (), rc: int = 0, flags: tuple[str, ...] = (), **env: str) -> str:
        environment = clean_environment() | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))} | env
        done = subprocess.run(
            [sys.executable, *flags, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == rc, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return (done.stderr + done.stdout).strip()

    return run


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    made = Forks(OF_VLLM, clean_environment() | {"TRITON_INTERPRET": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"})
    yield made
    made.close()


@pytest.fixture
def forked_python(forks: Forks, tmp_path: Path) -> Run:
    """As ``python``, with Triton interpreted, for code that imports vLLM: in a fork that has imported the rest."""

    def run(code: str, **env: str) -> str:
        done = forks.run(code, clean_environment() | {"PYTHONPATH": str(ROOT)} | env, tmp_path)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return (done.stderr + done.stdout).strip()

    return run


@pytest.fixture
def with_doubles(python: Run) -> Run:
    """Like ``python``, with the doubles of vllm and triton importable."""

    def run(code: str, **arguments: object) -> str:
        return python(code, path=(DOUBLES,), **arguments)

    return run
