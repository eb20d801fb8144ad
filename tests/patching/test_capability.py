"""If something is missing, vLLM stays as it is and the status names what is missing; ``force`` makes that an error."""

import pytest

from rope_patch.patching.targets import TARGETS
from rope_patch.settings import NAMES
from tests.conftest import Run

CODE = """
import rope_target, rope_patch, sys
import vllm.model_executor.layers.rotary_embedding.base as base
status = rope_patch.status()
print(base.EARLY(1, 2, 3), "forward_oot" in vars(base.RotaryEmbedding), status["capable"], status["reason"])
"""
OLDER = """
import builtins, sys
def older():
    base = sys.modules["vllm.model_executor.layers.rotary_embedding.base"]
    base.RotaryEmbedding.forward_native = lambda self, positions, query, key=None, offsets=None: "native"
builtins.while_half_imported = older
"""
MISSING = {
    "cuda platform": ({"DOUBLE_PLATFORM": "cuda"}, "vLLM's platform is cuda, not npu"),
    "cpu without interpreter": ({"DOUBLE_PLATFORM": "cpu"}, "vLLM's platform is cpu, not npu"),
    "mainline triton": ({"DOUBLE_TRITON_BACKENDS": "amd nvidia"}, "pip install triton-ascend"),
    "triton not active": ({"DOUBLE_HAS_TRITON": "0"}, "HAS_TRITON is False"),
}


@pytest.mark.parametrize(("environment", "reason"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_named_and_vllm_stays_native(
    with_doubles: Run, environment: dict[str, str], reason: str
) -> None:
    printed = with_doubles(CODE, **environment)
    assert printed.startswith("native False False ")
    assert reason in printed


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        ("__device_type__ = '_310P'", "chip: Atlas 310P, which"),
        ("__soc_version__ = 'ASCEND310P3'", "chip: Atlas 310P, which"),
        ("__device_type__ = 'A5'", "chip: Ascend 950 (A5), which"),
        ("__soc_version__ = 'ascend950pr_9589'", "chip: Ascend 950 (A5), which"),
        ("__device_type__ = 'A2'", ""),
        ("__device_type__ = 'A3'", ""),
        ("__soc_version__ = 'ASCEND910B1'", ""),
    ],
)
def test_the_chip_that_vllm_ascend_was_built_for_is_refused_by_its_name(
    with_doubles: Run, built: str, reason: str
) -> None:
    module = "import sys, types\nbuilt = sys.modules['vllm_ascend._build_info'] = types.ModuleType('_build_info')\n"
    printed = with_doubles(module + f"exec({built!r}, vars(built))" + CODE)
    assert printed.startswith("native False False " if reason else "ours True True ")
    assert reason in printed


def test_a_vllm_older_than_0_11_is_refused_whole_by_what_its_rotary_class_takes(with_doubles: Run) -> None:
    printed = with_doubles(OLDER + CODE + "print(*status['targets'].items(), sep='\\n')")
    first, *targets = printed.splitlines()[-1 - len(TARGETS) :]
    assert first.startswith("native False False release: vLLM's RotaryEmbedding takes offsets, as before 0.11")
    assert not [state for state in targets if "native: release: " not in state and "not imported" not in state]
    assert "native: release: " in targets[0]


@pytest.mark.parametrize("environment", [{}, {"DOUBLE_PLATFORM": "cpu", "TRITON_INTERPRET": "1"}], ids=["npu", "cpu"])
def test_an_npu_is_capable_and_a_cpu_under_the_interpreter(with_doubles: Run, environment: dict[str, str]) -> None:
    assert with_doubles(CODE, **environment).startswith("ours True True ")


@pytest.mark.parametrize(("environment", "reason"), MISSING.values(), ids=MISSING)
def test_force_fails_every_import_of_the_target_and_names_the_capability(
    with_doubles: Run, environment: dict[str, str], reason: str
) -> None:
    code = """
import rope_patch, importlib
for _ in range(2):
    try:
        importlib.import_module("vllm.model_executor.layers.rotary_embedding.base")
        print("imported")
    except Exception as error:
        print(type(error).__name__, error)
"""
    first, second = with_doubles(code, VLLM_ASCEND_TRITON_ROPE="force", **environment).splitlines()
    assert first == second
    assert first.startswith("NotCapable VLLM_ASCEND_TRITON_ROPE=force, but ")
    assert reason in first


def test_force_with_vllm_imported_first_is_raised_by_the_plugin_and_by_enable(with_doubles: Run) -> None:
    code = """
import vllm.model_executor.layers.rotary_embedding.base
import rope_patch  # only logs
from rope_patch.vllm_plugin import register
for demand in register, rope_patch.enable:
    try:
        demand()
    except Exception as error:
        print(type(error).__name__, error)
"""
    printed = with_doubles(code, VLLM_ASCEND_TRITON_ROPE="force", DOUBLE_PLATFORM="cuda").splitlines()[-2:]
    assert all(line.startswith("NotCapable VLLM_ASCEND_TRITON_ROPE=force, but platform") for line in printed)


def test_force_applied_while_vllm_is_half_imported_fails_this_import_and_the_next(with_doubles: Run) -> None:
    code = """
import builtins, importlib
builtins.while_half_imported = lambda: importlib.import_module("rope_patch")
for _ in range(2):
    try:
        importlib.import_module("vllm.model_executor.layers.rotary_embedding.base")
        print("imported")
    except Exception as error:
        print(type(error).__name__)
"""
    printed = with_doubles(code, VLLM_ASCEND_TRITON_ROPE="force", DOUBLE_PLATFORM="cuda")
    assert printed.splitlines()[-2:] == ["NotCapable", "NotCapable"]


def test_force_with_nothing_missing_is_like_on(with_doubles: Run) -> None:
    assert with_doubles(CODE, VLLM_ASCEND_TRITON_ROPE="force").startswith("ours True True ")


@pytest.mark.parametrize("value", ["0", "off", "nonsense"])
def test_switched_off_vllm_learns_our_variables_and_nothing_else_is_touched(with_doubles: Run, value: str) -> None:
    code = """
import sys
import vllm.model_executor.layers.rotary_embedding.base as base, vllm.custom_op, vllm.envs
modules = base, vllm.custom_op
known = dict(vllm.envs.environment_variables)
def picture():
    return [(m.__name__, n, id(a), {k: id(v) for k, v in vars(a).items()} if isinstance(a, type) else repr(a))
            for m in modules for n, a in sorted(vars(m).items()) if not n.startswith("__")]
before = picture()
import rope_patch
rope_patch.enable(); rope_patch.disable(); rope_patch.enable()
added = vllm.envs.environment_variables.keys() - known.keys()
print(before == picture(), "wrapt" in sys.modules, rope_patch.status()["mode"])
print(*sorted(added), *{vllm.envs.environment_variables[name]() for name in added})
"""
    untouched, added = with_doubles(code, VLLM_ASCEND_TRITON_ROPE=value).splitlines()[-2:]
    assert untouched == "True False off"
    assert added == " ".join([*sorted(NAMES), "None"])


def test_an_invalid_value_is_warned_of_and_leaves_vllm_native(with_doubles: Run) -> None:
    printed = with_doubles(CODE, VLLM_ASCEND_TRITON_ROPE="sometimes")
    assert "native False None" in printed
    assert "VLLM_ASCEND_TRITON_ROPE='sometimes' is not valid" in printed


KNOWN = """
import rope_target, rope_patch, vllm.envs
known = vllm.envs.environment_variables
print("VLLM_ASCEND_TRITON_ROPE" in known)
import vllm.model_executor.layers.rotary_embedding.base
print("VLLM_ASCEND_TRITON_ROPE" in known and known["VLLM_ASCEND_TRITON_ROPE"]())
rope_patch.disable()
print("VLLM_ASCEND_TRITON_ROPE" in known and known["VLLM_ASCEND_TRITON_ROPE"]())
"""


def test_a_variable_that_is_set_is_known_to_vllm_before_vllm_checks_for_unknown_ones(with_doubles: Run) -> None:
    first, applied, disabled = with_doubles(KNOWN, VLLM_ASCEND_TRITON_ROPE="1").splitlines()
    assert first == "True"
    assert "rotary_embedding" in applied  # so the compile cache's key differs from an unpatched process's
    assert disabled == "None"  # native graphs are the same, whatever the variable says


def test_an_unset_variable_is_in_the_compile_caches_key_while_something_is_applied(with_doubles: Run) -> None:
    first, applied, disabled = with_doubles(KNOWN).splitlines()
    assert (first, disabled) == ("False", "False")
    assert "rotary_embedding" in applied


def test_where_nothing_is_applied_vllms_variables_are_untouched(with_doubles: Run) -> None:
    assert with_doubles(KNOWN, DOUBLE_PLATFORM="cuda").split() == ["False", "False", "False"]


def test_a_check_that_could_not_be_made_is_made_again(with_doubles: Run) -> None:
    code = """
import rope_target, rope_patch
from rope_patch import capability
platform, asked = capability._platform, []
def fails_once():
    asked.append(1)
    if len(asked) == 1: raise KeyError("vllm.platforms")
    return platform()
fails_once.__name__ = "_platform"
capability._platform = fails_once
import vllm.model_executor.layers.rotary_embedding.base as base
print(base.EARLY(1, 2, 3), rope_patch.status()["reason"])
rope_patch.enable()
print(base.EARLY(1, 2, 3), rope_patch.status()["targets"]["rotary_embedding"])
"""
    first, again = with_doubles(code).splitlines()[-2:]
    assert first == "native platform: KeyError: 'vllm.platforms'"
    assert again == "ours applied"
