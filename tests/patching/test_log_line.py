"""One INFO line of a process says what was replaced and why, or why not; on doubles of vLLM, without torch."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rope_patch.settings import NATIVE
from tests.conftest import DOUBLES, Run

Lines = Callable[..., list[str]]

MODULES = "base", "mrope", "phi3_long_rope_scaled_rope"
BASE = "".join(f"import vllm.model_executor.layers.rotary_embedding.{name}\n" for name in MODULES)
LOG = "import logging; logging.basicConfig(level=logging.INFO, format='%(levelname)s %(message)s')\n"
ASCEND = """
import functools, sys, types
sys.modules["vllm_ascend"] = types.ModuleType("vllm_ascend")  # as after its platform was chosen
sys.modules["vllm_ascend.ops"] = types.ModuleType("vllm_ascend.ops")
def stand_in(name, error=None):
    def replacement(module, settings):
        if error: raise error
        place = types.SimpleNamespace(on=False, path="", stale=(), state=lambda: "applied" if place.on else "off")
        def switch(on, *earlier):
            place.on = on
            return True
        place.serves, place.is_called = (lambda: place.on), (lambda: False)
        place.resume = functools.partial(switch, True)
        place.install, place.undo = place.resume, functools.partial(switch, False)
        return place
    sys.modules["rope_patch.patching.targets." + name] = types.SimpleNamespace(replacement=replacement)
from rope_patch.patching.targets import NotApplicable
"""
ROTARY = "import vllm_ascend.ops.rotary_embedding\n"
USE = "from rope_patch.reporting import announcement; announcement.announce()\n"  # what the first-use check does


@pytest.fixture
def lines(python: Run, tmp_path: Path) -> Lines:
    """Run code with the doubles and a module of vllm-ascend; return what was logged at INFO and above."""
    (tmp_path / "ascend").mkdir()
    (tmp_path / "ascend" / "rotary_embedding.py").touch()
    found = f"sys.modules['vllm_ascend.ops'].__path__ = [{str(tmp_path / 'ascend')!r}]\n"

    def run(code: str, **environment: str) -> list[str]:
        start = LOG + "import rope_target, rope_patch" + ASCEND + found
        printed = python(start + code, path=(DOUBLES,), **environment).splitlines()
        return [line for line in printed if re.match(r"((INFO|WARNING) rope_patch|rope_p)\b", line)]

    return run


BOTH = """
stand_in("mrope"); stand_in("longrope"); stand_in("ascend_mrope")
stand_in("ascend_rope_kernel"); stand_in("ascend_rotary_class", NotApplicable("rotates through the other"))
stand_in("ascend_without_key")
"""
NEITHER = BOTH.replace('"ascend_rope_kernel"', '"ascend_rope_kernel", NotApplicable("it takes x, expected y")')
NEITHER = NEITHER.replace('"ascend_without_key"', '"ascend_without_key", NotApplicable("it takes x, expected y")')
APPLIED = "rotary_embedding", "mrope", "longrope", "ascend_rope_kernel", "ascend_without_key", "ascend_mrope"
REASON = r"\(vLLM's platform is npu, triton-ascend .*\)"


def test_when_the_last_target_is_decided_one_line_names_what_was_replaced_and_why(lines: Lines) -> None:
    after = ROTARY + USE + "rope_patch.disable(); rope_patch.enable()\n"
    mark, line = lines(BOTH + BASE + "print('rope_p of one target', file=sys.stderr)\n" + after)
    assert mark == "rope_p of one target"
    assert re.fullmatch(
        r"INFO rope_patch \S+: rotary_embedding, mrope, longrope, ascend_rope_kernel, ascend_without_key, "
        rf"ascend_mrope applied {REASON}",
        line,
    )


def test_if_a_module_is_never_imported_the_first_use_logs_the_line(lines: Lines) -> None:
    (line,) = lines(BOTH + BASE + USE + USE + ROTARY)
    assert re.fullmatch(rf"INFO rope_patch \S+: rotary_embedding, mrope, longrope applied {REASON}", line)


def test_where_vllm_has_its_rotary_classes_in_one_module_the_line_is_logged_all_the_same(lines: Lines) -> None:
    """As before vLLM 0.10: the modules of three targets cannot come."""
    one = "import vllm.envs, vllm.platforms, vllm.model_executor.layers\n"
    one += "sys.modules['vllm.model_executor.layers.rotary_embedding'] = types.ModuleType('rotary_embedding')\n"
    (line,) = lines(NEITHER + one + ROTARY)
    assert re.match(r"INFO rope_patch \S+: ascend_mrope applied; ascend_rope_kernel native: it takes x", line)


def test_the_line_waits_for_a_module_that_the_release_has(lines: Lines, tmp_path: Path) -> None:
    """Not for that of the other fused operator, which this one does not have."""
    for name in ("triton", "triton/linearnorm"):
        (tmp_path / "ascend" / name).mkdir()
        (tmp_path / "ascend" / name / "__init__.py").touch()
    (tmp_path / "ascend" / "triton" / "linearnorm" / "split_qkv_rmsnorm_rope.py").touch()
    fused = 'stand_in("qkv_rmsnorm_rope")\nprint("rope_p", file=sys.stderr)\nimport vllm_ascend.ops.triton.linearnorm'
    mark, line = lines(BOTH + BASE + ROTARY + fused + ".split_qkv_rmsnorm_rope\n")
    assert mark == "rope_p"
    assert f": {', '.join(APPLIED)}, qkv_rmsnorm_rope applied (" in line


def test_a_forked_process_logs_its_own_line_at_its_first_use(lines: Lines) -> None:
    fork = (
        "import os\nif not os.fork():\n    announcement.announce(); announcement.announce(); os._exit(0)\nos.wait()\n"
    )
    parents, childs = lines(BOTH + BASE + ROTARY + USE + fork)
    assert parents == childs


def test_a_use_before_any_target_is_imported_logs_nothing(lines: Lines) -> None:
    assert not lines(USE)


def test_a_module_in_which_nothing_was_replaced_is_named_with_the_reasons(lines: Lines) -> None:
    (line,) = lines(NEITHER + BASE + ROTARY)
    assert (
        "rotary_embedding, mrope, longrope, ascend_mrope applied; ascend_rope_kernel native: it takes x, expected y; "
        in line
    )
    assert "; ascend_rotary_class native" in line


def test_a_failed_target_has_a_warning_and_is_named_in_the_line(lines: Lines) -> None:
    warning, line = lines(
        BOTH.replace('"ascend_rope_kernel"', '"ascend_rope_kernel", OSError("moved")') + BASE + ROTARY
    )
    assert warning.startswith("WARNING rope_patch: ascend_rope_kernel failed: OSError: moved")
    said = "mrope, longrope, ascend_without_key, ascend_mrope applied; ascend_rope_kernel failed: OSError: moved"
    assert said in line, "although another target for that class is applied"


def test_in_an_incapable_process_the_line_is_logged_at_the_first_target(lines: Lines) -> None:
    (line,) = lines(BOTH + BASE + ROTARY + USE, DOUBLE_PLATFORM="cuda")
    assert line.endswith(": native: platform: vLLM's platform is cuda, not npu")


@pytest.mark.parametrize("value", ["0", "off", "sometimes"])
def test_switched_off_one_line_says_so_and_why(lines: Lines, value: str) -> None:
    line = lines(BOTH + BASE + ROTARY + USE, VLLM_ASCEND_TRITON_ROPE=value)[-1]
    assert re.fullmatch(rf"INFO rope_patch \S+: off: .*VLLM_ASCEND_TRITON_ROPE='?{value}.*; vLLM serves natively", line)


@pytest.mark.parametrize("left", ["mrope", "ascend_rope_kernel", "longrope,ascend_mrope"])
def test_the_line_names_what_is_left_native_and_the_compile_cache_key_what_serves(lines: Lines, left: str) -> None:
    key = "import vllm.envs; print('rope_p', vllm.envs.environment_variables['VLLM_ASCEND_TRITON_ROPE']())\n"
    line, served = sorted(lines(BOTH + BASE + ROTARY + key, **{NATIVE: left}))
    applied = [name for name in APPLIED if name not in left.split(",")]
    assert f": {', '.join(applied)} applied; " in line
    for name in left.split(","):
        assert f"; {name} native: as {NATIVE} says" in line
    assert served.endswith(f": on, {', '.join(sorted(applied))}")


def test_an_unknown_target_to_leave_native_is_one_warning_and_everything_is_native(lines: Lines) -> None:
    warning, line = lines(BOTH + BASE + ROTARY, **{NATIVE: "mrope,kernels"})
    assert warning.startswith(f"WARNING rope_patch: {NATIVE}='mrope,kernels' is not valid, expected one of rotary_em")
    assert ": off: " in line
    assert "applied" not in line
