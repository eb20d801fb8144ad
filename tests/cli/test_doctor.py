"""``rope-patch doctor``: whether the environment is able, every fault with its fix, and no device is initialised."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.patching.test_capability import OLDER

CODE = """
import rope_target, sys
from rope_patch.cli import main
status = main(["doctor", "--json"])
sys.stdout.flush()
print(status)
"""


def doctor(run: Run, before: str = "", **environment: str) -> tuple[dict[str, Any], int]:
    """What doctor answers, and its exit status."""
    printed = run(before + CODE, **environment)
    status = int(printed.splitlines()[-1])
    return json.loads(printed[printed.index("{\n") : printed.rindex("}") + 1]), status


def faults(said: dict[str, Any]) -> dict[str, Any]:
    return {finding["name"]: finding for finding in said["findings"] if finding["ok"] is False}


def test_an_able_environment_is_exit_status_0_and_names_what_would_be_patched(with_doubles: Run) -> None:
    said, status = doctor(with_doubles)
    assert status == 0
    assert said["able"]
    assert said["verdict"] == "would be patched: rotary_embedding"
    found = {finding["name"]: finding["found"] for finding in said["findings"]}
    assert found["target rotary_embedding"] == "applied"
    assert "No module named 'vllm_ascend'" in found["target ascend_rope_kernel"]
    assert found["triton"] == "triton-ascend 0-double"
    assert "doubles/triton" in found["import triton"]
    assert "entry point" in found["ways in"]
    assert "--device" in found["device"]


def test_a_target_that_is_left_native_is_named_with_the_variable(with_doubles: Run) -> None:
    said, _ = doctor(with_doubles, VLLM_ASCEND_TRITON_ROPE_NATIVE="rotary_embedding")
    found = {finding["name"]: finding["found"] for finding in said["findings"]}
    assert found["target rotary_embedding"] == "native: as VLLM_ASCEND_TRITON_ROPE_NATIVE says"
    assert found["variables"].startswith("VLLM_ASCEND_TRITON_ROPE_NATIVE=rotary_embedding: ")


def test_it_leaves_no_report_in_the_operators_folder(with_doubles: Run, tmp_path: Path) -> None:
    """It imports vLLM, but is none of its processes."""
    folder = tmp_path / "reports"
    printed = with_doubles(CODE, VLLM_ASCEND_TRITON_ROPE_REPORT=str(folder))
    assert printed.splitlines()[-1] == "0"
    assert f"REPORT={folder}" in printed
    assert not folder.exists()  # a report is written when the process ends, at the latest


@pytest.mark.parametrize(
    ("environment", "name", "fix"),
    [
        ({"DOUBLE_PLATFORM": "cuda"}, "platform", "vllm-ascend"),
        ({"DOUBLE_TRITON_BACKENDS": "nvidia"}, "triton", "pip uninstall -y triton triton-ascend && pip install"),
        ({"DOUBLE_HAS_TRITON": "0"}, "driver", "npu-smi"),
        ({"VLLM_ASCEND_TRITON_ROPE": "maybe"}, "variables", "unset"),
        ({"VLLM_ASCEND_TRITON_ROPE_NATIVE": "mropes"}, "variables", "unset"),
        ({"VLLM_PLUGINS": "ascend"}, "ways in", "VLLM_PLUGINS=ascend,"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_every_fault_is_exit_status_1_and_comes_with_its_fix(
    with_doubles: Run, environment: dict[str, str], name: str, fix: str
) -> None:
    said, status = doctor(with_doubles, **environment)
    assert status == 1
    assert not said["able"]
    assert list(faults(said)) == [name]
    assert fix in faults(said)[name]["fix"]
    assert name in said["verdict"]


def test_a_release_that_is_too_old_is_a_fault_with_its_fix(with_doubles: Run) -> None:
    said, status = doctor(with_doubles, OLDER)
    assert status == 1
    assert list(faults(said)) == ["release"]
    assert faults(said)["release"]["fix"] == "pip install 'vllm-ascend>=0.11.0'"


def test_force_that_cannot_be_met_is_a_finding_not_a_crash(with_doubles: Run) -> None:
    said, status = doctor(with_doubles, VLLM_ASCEND_TRITON_ROPE="force", DOUBLE_PLATFORM="cuda")
    assert status == 1
    found = {finding["name"]: finding["found"] for finding in said["findings"]}
    assert "NotCapable" in found["target rotary_embedding"]


def test_triton_ascend_is_wanted_in_the_version_that_vllm_ascend_asks_for(with_doubles: Run) -> None:
    asks = "import importlib.metadata as m\nm.requires = lambda name: ['triton-ascend==3.2.2', 'wrapt']\n"
    said, _ = doctor(with_doubles, asks, DOUBLE_TRITON_BACKENDS="nvidia")
    assert faults(said)["triton"]["fix"].endswith("&& pip install triton-ascend==3.2.2")


def test_a_device_that_cannot_be_looked_at_is_a_finding_not_a_crash(with_doubles: Run) -> None:
    code = "import sys; sys.modules['torch'] = None\n"
    printed = with_doubles(code + CODE.replace('"--json"', '"--json", "--device"'))
    assert "ModuleNotFoundError: import of torch halted" in printed
    assert printed.splitlines()[-1] == "1"


def test_a_missing_vllm_is_a_fault_with_its_fix(with_doubles: Run) -> None:
    said, status = doctor(with_doubles, before="import sys; sys.modules['vllm'] = None\n")
    assert status == 1
    assert "pip install vllm vllm-ascend" in faults(said)["vllm"]["fix"]


@pytest.mark.parametrize("value", ["0", "off"])
def test_switched_off_is_said_as_set_and_is_no_fault(with_doubles: Run, value: str) -> None:
    said, status = doctor(with_doubles, VLLM_ASCEND_TRITON_ROPE=value)
    assert status == 0
    assert not said["able"]
    assert said["verdict"] == f"off, as set: switched off by VLLM_ASCEND_TRITON_ROPE={value}"
    assert not faults(said)


CHECKS = {
    "in vllm.envs": "import vllm.envs; vllm.envs.validate_environ = print\n",
    "of the platform": "import vllm.platforms as p; p.current_platform = type('P', (), {'device_type': 'npu', "
    "'validate_environ': None})()\n",
}


@pytest.mark.parametrize("before", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("value", ["0", "1"])
def test_whether_vllm_would_refuse_our_variables_is_said(with_doubles: Run, before: str, value: str) -> None:
    def of_variables(**environment: str) -> dict[str, Any]:
        said, _ = doctor(with_doubles, before, VLLM_ASCEND_TRITON_ROPE=value, **environment)
        (found,) = (finding for finding in said["findings"] if finding["name"] == "vLLM's variables")
        return found

    known = of_variables()
    assert known["ok"] is True
    assert "it knows ours, switched on or off" in known["found"]
    kept_out = of_variables(VLLM_PLUGINS="ascend")  # vLLM's processes do not import rope_patch then
    assert kept_out["ok"] is False
    assert "refuses them under --fail-on-environ-validation: VLLM_ASCEND_TRITON_ROPE" in kept_out["found"]
    assert kept_out["fix"] == "unset VLLM_ASCEND_TRITON_ROPE"


def test_a_vllm_that_does_not_look_for_unknown_variables_is_said(with_doubles: Run) -> None:
    said, _ = doctor(with_doubles, VLLM_ASCEND_TRITON_ROPE="0")
    assert "does not look for variables" in str(said["findings"])


PLUGINS = """
import importlib.metadata as metadata
class Point:
    def __init__(self, name): self.name = name
HERE = {"vllm.general_plugins": ["ascend_model", "rope_patch", "rope_patch"], "vllm.platform_plugins": ["ascend"],
        "vllm.stat_logger_plugins": ["logger"], "vllm.endpoint_plugins": ["endpoint"]}
def entry_points(group, name=None):
    return [Point(one) for one in HERE.get(group, []) if name in (None, one)]
metadata.entry_points = entry_points
"""
ALL = "ascend,ascend_model,logger,rope_patch"


@pytest.mark.parametrize(
    ("allowed", "said_of_them"),
    [
        (None, f"unset, so vLLM loads all plugins; whoever sets it keeps them by VLLM_PLUGINS={ALL}"),
        ("", f"keeps out ascend, ascend_model, logger, rope_patch; VLLM_PLUGINS={ALL} keeps all of them"),
        (
            "ascend,rope_patch",
            "keeps out ascend_model, logger; VLLM_PLUGINS=ascend,rope_patch,ascend_model,logger keeps",
        ),
        (
            "endpoint,x,ascend",
            "keeps out ascend_model, logger, rope_patch; VLLM_PLUGINS=endpoint,x,ascend,ascend_model,",
        ),
        (f"{ALL},x", f"{ALL},x: keeps out none"),
    ],
)
def test_it_prints_the_vllm_plugins_that_keeps_every_plugin_of_this_environment(
    with_doubles: Run, allowed: str | None, said_of_them: str
) -> None:
    """What vLLM loads without the variable: endpoint plugins are loaded only if it names them."""
    environment = {} if allowed is None else {"VLLM_PLUGINS": allowed}
    said, _ = doctor(with_doubles, PLUGINS, **environment)
    (found,) = (finding for finding in said["findings"] if finding["name"] == "VLLM_PLUGINS")
    assert said_of_them in found["found"]
    ways = next(finding for finding in said["findings"] if finding["name"] == "ways in")
    assert ways["ok"] == (allowed is None or "rope_patch" in allowed)
    if not ways["ok"]:
        assert set(ALL.split(",")) <= set(ways["fix"].removeprefix("VLLM_PLUGINS=").split(","))


def test_the_text_has_faults_fixes_and_the_verdict(with_doubles: Run) -> None:
    code = CODE.replace(', "--json"', "")
    printed = with_doubles(code, DOUBLE_HAS_TRITON="0")
    assert "FAULT" in printed
    assert "-> see that an NPU is visible" in printed
    assert printed.splitlines()[-2] == "vLLM's rotary embedding stays native; 1 to fix: driver"


def test_the_real_vllm_is_looked_at_without_initialising_a_device(python: Run) -> None:
    pytest.importorskip("vllm", reason="needs the real vLLM")
    environment = {"ROPE_PATCH_TEST_PLATFORM": "1", "TRITON_INTERPRET": "1"}
    said, status = doctor(python, "import sys; sys.modules['rope_target'] = sys\n", **environment)
    assert (status, said["verdict"]) == (0, "would be patched: rotary_embedding, mrope, longrope")
    assert said["device_initialised"] is False
