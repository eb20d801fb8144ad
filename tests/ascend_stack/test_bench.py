"""``rope-patch bench`` on a released vllm-ascend, on the host CANN: who serves, and that both are measured.

Run in each environment of ``stack_environment``, on the host CANN; see the README. The times are the host's, and
the test only checks that there are some.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ascend_stack.engine import NEWEST
from tests.ascend_stack.harness import Stack, needs_stack, start
from tests.ascend_stack.models import LLAMA3

pytestmark = needs_stack
MODEL = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
MODELS: dict[str, dict[str, Any]] = {
    "full": {"head_dim": 64},
    "full 128": {"head_dim": 128},
    "partial": {"head_dim": 128, "partial_rotary_factor": 0.5},
    "sections": {"head_dim": 128, "rope_parameters": {"mrope_section": [16, 24, 24]}},
    "llama3": {"head_dim": 128, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def benched(folder: Path, model: str, *arguments: str) -> Any:
    """What the verb answers for a model."""
    from rope_patch import cli

    (folder / "config.json").write_text(json.dumps({**MODEL, **MODELS[model]}))
    options = cli._parser().parse_args(["bench", str(folder), *arguments])
    return options.act(options)


@pytest.mark.parametrize("model", MODELS)
def test_native_and_patched_are_measured_and_the_row_says_who_serves(
    stack: Stack, model: str, tmp_path: Path, monkeypatch: Any
) -> None:
    from rope_patch.cli import measurement
    from rope_patch.patching.targets import ascend_mrope
    from rope_patch.patching.targets.ascend_rotary_class import LEFT_TO_FUSION, LEFT_TO_VENDOR

    if model == "sections" and stack.version != NEWEST:
        pytest.skip("the newest release is asked")
    monkeypatch.setattr(measurement, "ON_DEVICE", measurement.Effort(2, 2, 2))
    monkeypatch.setenv(
        "VLLM_LOGGING_LEVEL", "INFO"
    )  # otherwise the verb would set it for this process's later children
    answer = benched(tmp_path, model, "--tokens", "5")
    vendor = {"sections": ascend_mrope.LEFT_TO_VENDOR}
    vendor |= {"full": LEFT_TO_VENDOR, "full 128": LEFT_TO_FUSION} if not stack.has_triton_path else {}
    assert answer.ok
    (row,) = answer.data["results"]
    assert (row["serves"], row["reason"]) == ("native" if model in vendor else "kernel", vendor.get(model))
    assert row["fault"] is None
    # 0.11 passes head_size to the vendor's operator as the rotary dim.
    wrong = ["native differs"] if model == "partial" and stack.version == "0.11.0" else []
    assert [remark[:14] for remark in row["remarks"]] == wrong
    for times in row["native"], row["patched"]:
        assert times["host"]["median_us"] > 0
        assert times["device"] is not None
    assert row["patched"]["device_by"] == "graph replay"
    offered = "VLLM_ASCEND_TRITON_ROPE=all would give the kernel 1 of these lines" in answer.text
    assert offered == (vendor.get(model) in (LEFT_TO_VENDOR, ascend_mrope.LEFT_TO_VENDOR))
