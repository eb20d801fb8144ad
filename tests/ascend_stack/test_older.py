"""vllm-ascend 0.7.3.post1 and 0.9.1: whichever way rope_patch comes in, the process is as without it, and it says why.

vLLM has its rotary classes in one module there, and vllm-ascend puts its functions on them. Run in each environment
that ``stack_environment`` makes for them, on the host CANN; see the README.
"""

from typing import Any

import pytest

from tests.ascend_stack.harness import needs_stack
from tests.ascend_stack.processes import table

pytestmark = needs_stack
# Each way in is tried on one of them: every process costs seconds of imports.
WAYS = {"0.7.3.post1": ("import",), "0.9.1": ("sitecustomize", "plugin")}
ALL = ("import", "sitecustomize", "plugin")


@pytest.fixture(scope="module")
def version() -> str:
    from importlib.metadata import version

    found = version("vllm-ascend")
    if found not in WAYS:
        pytest.skip("for releases in which nothing is replaced")
    return found


def process(version: str, way: str) -> Any:
    if way not in ("without", *WAYS[version]):
        pytest.skip("tried on the other release")
    return table("tests.ascend_stack.older", "1", way)


@pytest.mark.parametrize("way", ALL)
def test_the_process_is_as_without_us(version: str, way: str) -> None:
    found, without = process(version, way), process(version, "without")
    assert (without["ours"], found["ours"]) == (False, True)
    assert found["functions"] == without["functions"]
    assert found["computed"] == without["computed"]
    assert [result.split(": ")[0] for result in without["computed"]] == 2 * ["RotaryEmbedding"] + [
        "Llama3RotaryEmbedding"
    ]
    assert not any("Error" in result for result in without["computed"])


@pytest.mark.parametrize("way", ALL)
def test_one_line_says_that_it_is_native_and_why(version: str, way: str) -> None:
    found = process(version, way)
    assert all(state.startswith("native: ") for state in found["targets"].values()), found["targets"]
    for name in ("rotary_embedding", "mrope", "longrope"):
        assert found["targets"][name] == "native: this release has no such module"
    why = "native: triton: " if version == "0.7.3.post1" else "native: there is no AscendRotaryEmbedding.forward_oot"
    assert found["targets"]["ascend_rotary_class"].startswith(why)
    (line,) = found["logged"]
    assert line.startswith("INFO rope_patch ")
    assert why in line


def test_doctor_names_the_release_that_is_wanted(version: str) -> None:
    found = process(version, WAYS[version][0])
    assert found["doctor status"] == 1
    said = found["doctor"]
    assert said["verdict"].startswith("vLLM's rotary embedding stays native; ")
    findings = {finding["name"]: finding for finding in said["findings"]}
    assert findings["vllm-ascend"]["found"] == f"{version}; wanted 0.11.0 or newer"
    assert findings["vllm-ascend"]["fix"] == "pip install 'vllm-ascend>=0.11.0'"
    assert "this release has no such module" in findings["target rotary_embedding"]["found"]
