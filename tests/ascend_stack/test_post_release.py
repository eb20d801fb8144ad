"""vllm-ascend 0.23.0.post1, installed from source as a user gets it: what serves is that of 0.23.0, and it does serve.

In both environments of ``stack_environment``:
``.venvs/stack-0.23.0.post1/bin/python -m tests.host_cann.run pytest tests/ascend_stack/test_post_release.py``.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ascend_stack import harness
from tests.ascend_stack.release import VERSION

POST = "0.23.0.post1"
pytestmark = [harness.needs_stack, pytest.mark.skipif(POST != VERSION, reason=f"this is of {POST}")]
# What differs: another chip's model runner, a weight format, and two files that rotate nothing.
DIFFERS = {
    "_310p/model_runner_310p.py",
    "_version.py",
    "patch/worker/patch_mamba_utils.py",
    "quantization/methods/w8a8_mxfp8.py",
    "worker/model_runner_v1.py",
}


def sources(release: str, package: str) -> dict[str, bytes]:
    (site,) = (Path(sys.prefix).parent / f"stack-{release}").glob("lib/python3*/site-packages")
    return {str(path.relative_to(site / package)): path.read_bytes() for path in (site / package).rglob("*.py")}


@pytest.mark.parametrize(("package", "differs"), [("vllm", set()), ("vllm_ascend", DIFFERS)])
def test_its_python_files_are_those_of_0_23_0_but_for_some_that_do_not_rotate(package: str, differs: set[str]) -> None:
    before, after = sources("0.23.0", package), sources(POST, package)
    generated = {name for name in before.keys() ^ after.keys() if name.startswith("_cann_ops_custom")}
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} - generated == differs
    assert not [name for name in differs if "rotary" in name or "rope" in name or "ops/" in name]


def test_the_same_targets_apply_and_the_kernel_serves(npu: Any) -> None:
    import rope_patch
    from rope_patch.reporting import ledger
    from tests import rotations

    stack = harness.start()
    states = rope_patch.status()["targets"]
    assert [name for name, state in states.items() if state == "applied"] == stack.targets
    for kind in ({"rotary_dim": 64}, {"rotary_dim": 96}):  # the second is one that its own kernel gets wrong
        embedding = stack.build("default", 128, **kind)
        case = rotations.rotation(5, 8, 2, 128, **kind)
        case = dataclasses.replace(case, cache=embedding.cos_sin_cache)
        before = [tensor.clone() for tensor in (case.query, case.key)]
        ledger.reset()
        after = stack.rotate(embedding, case.positions, case.query, case.key)
        assert ledger.calls() == {"eager": 1}
        for old, new in zip(before, after, strict=True):
            rotations.assert_rotated(case, old, new)
