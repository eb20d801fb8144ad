"""The pytest side: the ``npu`` fixture, and how a test comes to run where it can work.

The host CANN is found by the dynamic loader, so the environment must be right before Python starts. A test that wants
it asks for ``npu``; in a process without the host CANN that test is *skipped with the command that runs it*, or fails
when ``HOST_CANN_REQUIRED`` is set, as it is in our own test script. The way in is::

    python -m tests.host_cann.run pytest tests/host_cann_tests

Faults of the device are sticky, as on hardware, and end up in the process's exit as well: a test that provokes one does
so in a process of its own, with ``run_script``.
"""

import atexit
import functools
import os
import subprocess
import textwrap
from types import ModuleType

import pytest

from tests.host_cann.forks import Forks

from . import build, environment

REQUIRED = "HOST_CANN_REQUIRED"


def _missing() -> str:
    try:
        build.check()
    except build.Missing as missing:
        return str(missing)
    return ""


# For tests that build or read, but need no device. Our test script builds first, so that nothing is skipped there.
needs_build = pytest.mark.skipif(bool(_missing()), reason=_missing())


def initialise() -> ModuleType:
    """Import torch_npu, set the device, install operators and doubles; return torch, ready for ``npu:0``."""
    torch = register()
    torch.npu.set_device(0)
    return torch


@functools.cache
def register() -> ModuleType:
    """As ``initialise``, but without setting a device, since a process must not have one when it forks."""
    import torch
    import torch_npu
    import torch_npu.op_plugin.atb._atb_ops  # noqa: F401  its operators exist only once its library is loaded

    from . import attention, doubles, experts, layers, operators, quantisation

    named = doubles.DOUBLES | layers.DOUBLES | attention.DOUBLES | experts.DOUBLES | quantisation.DOUBLES
    operators.install({name: operators.on_device(double) for name, double in named.items()})
    doubles.install_custom()
    return torch


@pytest.fixture(scope="session")
def npu() -> ModuleType:
    """torch, ready for ``npu:0``. See this module's docstring for processes where it cannot be."""
    if not environment.active():
        message = "needs the host CANN: python -m tests.host_cann.run pytest ..."
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(message)
    return initialise()


@functools.cache
def _forks() -> Forks:
    before = "from tests.host_cann import fixture, sample_kernels\nfixture.register()"
    forks = Forks(before, environment.variables(build.ensure()))
    atexit.register(forks.close)
    return forks


def run_script(text: str, chip: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python source in a process of its own on the host CANN; ``torch`` is ready for ``npu:0`` in it.

    It is forked from one that has no device yet."""
    prologue = "from tests.host_cann import fixture\ntorch = fixture.initialise()\n"
    env = environment.variables(build.ensure(), chip) | variables
    return _forks().run(prologue + textwrap.dedent(text), env, os.getcwd())
