"""Runs a stack in a process of its own, a fork where it can, in one of rope_patch's modes.

The answer is kept for all tests of a session.
"""

import atexit
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests.conftest import ROOT
from tests.host_cann import build, environment
from tests.host_cann.forks import OF_VLLM, Forks

# The others prepare an engine's machine before vLLM is imported, and fork themselves.
FORKED = tuple(f"tests.ascend_stack.{name}" for name in ("native", "orders", "older", "incapable"))
TAKES_AWAY_IMPORTS = "no triton"  # a situation of ``incapable``, for which what is imported before a fork is too much

# The folder of this session's answers, if there are several workers: conftest.py sets it.
shared: Path | None = None


def _variables(chip: str | None = None) -> dict[str, str]:
    variables = environment.variables(build.ensure(), chip)
    variables.pop("CI", None)  # it changes what torch does; modules that test it set it themselves
    return variables


@functools.cache
def _forks() -> Forks:
    register = "from tests.host_cann import fixture\nfixture.register()"
    forks = Forks(register + OF_VLLM, _variables())
    atexit.register(forks.close)
    return forks


@functools.cache
def table(module: str, mode: str, *arguments: str, chip: str | None = None) -> Any:
    """The JSON that ``python -m module`` prints last, run under ``VLLM_ASCEND_TRITON_ROPE=mode`` on the host CANN.

    pytest-xdist's workers ask one process too: the first one's answer lies in a file that the others read.
    """
    if shared is None:
        return json.loads(_run(chip, module, mode, *arguments))
    name = "-".join((module, mode, *arguments, *filter(None, [chip]))).replace(" ", "_")
    answer = shared / f"{name}.json"
    with FileLock(f"{answer}.lock"):
        if not answer.exists():
            answer.write_text(_run(chip, module, mode, *arguments))
    return json.loads(answer.read_text())


def _run(chip: str | None, module: str, mode: str, *arguments: str) -> str:
    variables = _variables(chip) | {"VLLM_ASCEND_TRITON_ROPE": mode}
    with tempfile.TemporaryDirectory() as folder:  # torchair leaves files in the current one
        if module in FORKED and TAKES_AWAY_IMPORTS not in arguments:
            code = f"import runpy, sys\nsys.argv[1:] = {arguments!r}\nrunpy.run_module({module!r}, run_name='__main__')"
            done = _forks().run(code, variables, folder)
        else:
            command = [sys.executable, "-m", module, *arguments]
            done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{ROOT.name}: {module} under {mode}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.splitlines()[-1]
