"""Whether this Python can start vllm-ascend's engine, and with which models, for tests that start it."""

import importlib.util
import os

import pytest

from tests.ascend_stack import harness
from tests.ascend_stack.engine import NEWEST, RELEASES, models_of
from tests.ascend_stack.release import VERSION
from tests.ascend_stack.tested import having
from tests.host_cann import fixture

# Packages that vLLM requires and its engine and server import, beyond those of its platform and its layers.
NEEDED: tuple[str, ...] = ("click", "interegular", "lmformatenforcer", "numba", "scipy", "uvicorn")
NEEDED += ("jmespath", "model_hosting_container_standards", "prometheus_fastapi_instrumentator", "watchfiles")
# All models on the newest releases; on the others those that other code of theirs rotates, and the seed's two.
FEW = {"0.18.0": ["GLM-4", "GLM-4-MoE", "Phi-3", "ERNIE-4.5"]}
MODELS = models_of(VERSION) if VERSION in having("images") else FEW.get(VERSION, ["GLM-4", "GLM-4-MoE", "Phi-3"])
# How the kernel rounds is asked once.
IN_BFLOAT16 = ["GLM-4", "GLM-4-MoE", "GLM-4.1V"] if VERSION == NEWEST else []
# Switched off, nothing is replaced, whatever the model: on other releases one shows that it is so there too.
SWITCHED_OFF = MODELS if VERSION == NEWEST else MODELS[:1]
# The arguments of ``generate`` for this release: tests that give the same ones share a process.
EAGER = (*MODELS, "--off", *SWITCHED_OFF, *(["--in-bfloat16", *IN_BFLOAT16] if IN_BFLOAT16 else []))


def missing() -> str:
    if why := harness.missing():
        return why
    if VERSION not in RELEASES:
        return f"of vllm-ascend {VERSION} the engine was tried by hand only: tests/ascend_stack/README.md"
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        return f"this environment was made before the engine's tests, and lacks {', '.join(lacking)}"
    return ""


def newest_only(reason: str) -> pytest.MarkDecorator:
    """Skips the test on the other releases."""
    return pytest.mark.skipif(VERSION != NEWEST, reason=reason)


def _mark() -> pytest.MarkDecorator:
    """Skips the test where it cannot; in our own test script an incomplete environment fails it."""
    why = missing()
    if os.environ.get(fixture.REQUIRED) and "lacks" in why:
        raise RuntimeError(why)
    return pytest.mark.skipif(bool(why), reason=why)


needs_engine = _mark()
