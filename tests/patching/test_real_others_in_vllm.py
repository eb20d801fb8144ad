"""Tracing agents beside the real vLLM: their hooks and wrappers work as without us, and off is off."""

import pytest

from tests.conftest import Run

pytest.importorskip("vllm", reason="needs the real vLLM")

ENVIRONMENT = {
    "ROPE_PATCH_TEST_PLATFORM": "1",
    "TRITON_INTERPRET": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "DD_TRACE_ENABLED": "false",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
}
NAME = "vllm.model_executor.layers.rotary_embedding.base"
USE = """
import torch
from rope_patch.reporting import ledger
from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import base
def rope():
    with set_current_vllm_config(VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))):
        return base.RotaryEmbedding(64, 64, 32, 1e4, True, torch.float32)
def call(embedding):
    ledger.reset()
    torch.manual_seed(0)
    query, key = torch.randn(3, 128), torch.randn(3, 128)
    want = embedding.forward_native(torch.arange(3), query.clone(), key.clone())
    for a, b in zip(embedding(torch.arange(3), query, key), want):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
    return sum(ledger.calls().values())
early = rope()
WRAP
late = rope()
served = [(call(early), call(late))]
for switch in rope_patch.disable, rope_patch.enable, rope_patch.disable:
    switch()
    served.append((call(early), call(late)))
print(served, seen)
"""
DDTRACE = (
    f"""
from ddtrace.internal.module import ModuleWatchdog
ModuleWatchdog.install()
ModuleWatchdog.register_module_hook({NAME!r}, lambda module: seen.add("hook"))
""",
    """
from ddtrace.internal.wrapping import wrap
def theirs(function, args, kwargs):
    seen.add("call")
    return function(*args, **kwargs)
wrap(base.RotaryEmbedding.forward_oot, theirs)
""",
)
OPENTELEMETRY = (
    f"""
import wrapt
from opentelemetry.instrumentation import auto_instrumentation
auto_instrumentation.initialize()
wrapt.register_post_import_hook(lambda module: seen.add("hook"), {NAME!r})
""",
    """
def theirs(function, instance, args, kwargs):
    seen.add("call")
    return function(*args, **kwargs)
wrapt.wrap_function_wrapper(base, "RotaryEmbedding.forward_oot", theirs)
""",
)


@pytest.mark.parametrize(("hook", "wrap"), [DDTRACE, OPENTELEMETRY], ids=["ddtrace", "opentelemetry"])
@pytest.mark.parametrize("order", ["before us", "after us"])
def test_tracing_agents_see_their_calls_and_the_kernel_serves_only_while_it_is_on(
    forked_python: Run, hook: str, wrap: str, order: str
) -> None:
    ours = "import rope_patch\n"
    code = "seen = set()\n" + (hook + ours if order == "before us" else ours + hook) + USE.replace("WRAP", wrap)
    printed = forked_python(code, **ENVIRONMENT).splitlines()[-1]
    served, _, seen = printed.partition("] ")
    assert served == "[(1, 1), (0, 0), (1, 1), (0, 0)"
    assert eval(seen) == {"hook", "call"}
