"""Whether this Python can start vllm-ascend's engine, for tests that start it."""

import importlib.metadata
import importlib.util
import os

import pytest

from tests.ascend_stack import harness
from tests.host_cann import fixture

RELEASES = ("0.13.0", "0.18.0", "0.23.0")
# Packages that vLLM requires and its engine and server import, beyond those of its platform and its layers.
NEEDED = ("click", "interegular", "lmformatenforcer", "numba", "scipy", "uvicorn")
NEEDED += ("jmespath", "model_hosting_container_standards", "prometheus_fastapi_instrumentator", "watchfiles")
VERSION = importlib.metadata.version("vllm-ascend") if importlib.util.find_spec("vllm_ascend") else ""


def missing() -> str:
    if why := harness.missing():
        return why
    if VERSION not in RELEASES:
        return f"of vllm-ascend {VERSION} the engine was tried by hand only: tests/ascend_stack/README.md"
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        return f"this environment was made before the engine's tests, and lacks {', '.join(lacking)}"
    return ""


def _mark() -> pytest.MarkDecorator:
    """Skips the test where it cannot; in our own test script an incomplete environment fails it."""
    why = missing()
    if os.environ.get(fixture.REQUIRED) and "lacks" in why:
        raise RuntimeError(why)
    return pytest.mark.skipif(bool(why), reason=why)


needs_engine = _mark()
