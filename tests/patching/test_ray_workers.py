"""The kill switch reaches Ray workers: which variables the installed vLLM's Ray executor copies to them."""

import pytest

from tests.conftest import Run

pytest.importorskip("vllm", reason="needs the real vLLM")

COPIED = """
from vllm.platforms import current_platform
print(current_platform.additional_env_vars)
try:
    from vllm.v1.executor import ray_executor as executor
except ImportError:
    from vllm.executor import ray_distributed_executor as executor
from vllm.ray import ray_env
ray_env.DEFAULT_ENV_VAR_PREFIXES = set()  # newer versions copy every VLLM_*; pretend that this one does not
if {late}:
    import rope_patch
# The executor makes this call when it starts its workers:
names = executor.get_env_vars_to_copy(additional_vars=set(executor.current_platform.additional_env_vars))
print(*("VLLM_ASCEND_TRITON_ROPE" + more in names for more in ("", "_NATIVE", "_REPORT")))
"""
EARLY, LATE = "import rope_patch" + COPIED.format(late=False), COPIED.format(late=True)
ABSENT = "import sys; sys.modules['rope_patch'] = None" + COPIED.format(late=False)
PLATFORM = {"ROPE_PATCH_TEST_PLATFORM": "1", "TRITON_INTERPRET": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
FOLDER = "/proc/nowhere"


@pytest.mark.parametrize(
    ("code", "value", "expected"),
    [
        (ABSENT, "0", "False False False"),
        (EARLY, "0", "True True True"),
        (LATE, "0", "True True True"),
        (EARLY, "1", "True True True"),
    ],
    ids=["without us", "off", "off, imported late", "on"],
)
def test_a_vllm_that_copies_only_variables_it_knows_copies_ours(
    forked_python: Run, code: str, value: str, expected: str
) -> None:
    ours = {"VLLM_ASCEND_TRITON_ROPE": value, "VLLM_ASCEND_TRITON_ROPE_REPORT": FOLDER}
    ours["VLLM_ASCEND_TRITON_ROPE_NATIVE"] = "mrope"
    *_, platforms, copied = forked_python(code, **PLATFORM | ours).splitlines()
    assert copied == expected
    assert "VLLM_ASCEND" not in platforms, "without Ray, the platform's list is untouched"
