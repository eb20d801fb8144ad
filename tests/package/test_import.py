"""``import rope_patch`` costs next to nothing where vLLM is not used, and does no harm where the patch cannot work."""

import operator
import os
import statistics
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run, clean_environment

BOOTSTRAP = ROOT / "rope_patch" / "bootstrap"


def test_it_imports_neither_torch_nor_vllm_nor_triton_nor_wrapt(python: Run) -> None:
    loaded = python("import rope_patch, sys; print(*{m.split('.')[0] for m in sys.modules})").split()
    assert not {"torch", "vllm", "triton", "wrapt", "torch_npu"} & set(loaded)


def test_it_imports_only_its_own_modules(python: Run) -> None:
    bare = set(python("import sys; print(*sys.modules)").split())
    ours = set(python("import rope_patch, sys; print(*sys.modules)").split())
    light = ("", ".environment", ".patching", ".patching.import_watch", ".patching.loader")
    assert ours - bare == {f"rope_patch{name}" for name in light}


def test_sitecustomize_costs_a_process_without_vllm_a_small_part_of_its_start() -> None:
    """Compares medians of processor time measured in turns, since load and a slow machine change both alike."""
    bare = clean_environment() | {"PYTHONPATH": str(ROOT)}
    bare.pop("PYTHONDONTWRITEBYTECODE", None)  # so that bytecode is cached, as for an installed package
    ours = bare | {"PYTHONPATH": os.pathsep.join((str(BOOTSTRAP), str(ROOT)))}

    def milliseconds(environment: dict[str, str]) -> float:
        process = os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], environment)
        _, status, usage = os.wait4(process, 0)
        assert status == 0
        return (usage.ru_utime + usage.ru_stime) * 1000

    milliseconds(ours)  # compiles the bytecode
    with_us, without = zip(*((milliseconds(ours), milliseconds(bare)) for _ in range(41)), strict=True)
    cost, start = statistics.median(map(operator.sub, with_us, without)), statistics.median(without)
    print(
        f"sitecustomize adds {cost:.2f} ms to a bare interpreter's {start:.2f} ms ({cost / start:.0%}; medians of 41)"
    )
    assert cost <= 0.3 * start


def test_importing_twice_and_from_threads_applies_once(with_doubles: Run) -> None:
    code = """
import importlib, threading
import rope_target
names = ["rope_patch", "vllm.envs", "vllm.model_executor.layers.rotary_embedding.base"] * 8
threads = [threading.Thread(target=importlib.import_module, args=(name,)) for name in names]
[t.start() for t in threads]; [t.join() for t in threads]
import rope_patch
import vllm.model_executor.layers.rotary_embedding.base as base
from rope_patch import settings
from rope_patch.patching import hooks
hooks.patch.arm(settings.current())
ours = vars(base.RotaryEmbedding)["forward_oot"]
print(base.EARLY(1, 2, 3), ours.__closure__ is not None, rope_target.made)
"""
    assert with_doubles(code).splitlines()[-1] == "ours True 1"


@pytest.mark.parametrize("milliseconds", [0, 5, 20])
def test_importing_vllm_does_not_deadlock_with_imports_in_another_thread(with_doubles: Run, milliseconds: int) -> None:
    """A finder runs under the import lock. If ours imported anything there, the two threads could deadlock."""
    code = f"""
import faulthandler, sys, threading, time
faulthandler.dump_traceback_later(500, exit=True)  # reports a deadlock before pytest ends the test
import rope_target, rope_patch
other = threading.Thread(target=lambda: __import__("wrapt"))
other.start()
time.sleep({milliseconds} / 1000)
import vllm.model_executor.layers.rotary_embedding.base as base
other.join()
print(base.EARLY(1, 2, 3))
"""
    assert with_doubles(code).splitlines()[-1] == "ours"


def test_looking_for_vllm_without_importing_it_starts_nothing(with_doubles: Run) -> None:
    code = """
import rope_patch, sys, importlib.util
print(importlib.util.find_spec("vllm").name, "rope_patch.patching.hooks" in sys.modules)
"""
    assert with_doubles(code) == "vllm False"


def test_a_submodule_of_vllm_is_noticed_if_vllm_itself_was_missed(with_doubles: Run) -> None:
    """Another thread may have found vllm before our finder existed, and not yet put it into ``sys.modules``."""
    code = """
import vllm, sys
hidden = sys.modules.pop("vllm")
import rope_target, rope_patch
sys.modules["vllm"] = hidden
import vllm.model_executor.layers.rotary_embedding.base as base
print(base.EARLY(1, 2, 3))
"""
    assert with_doubles(code).splitlines()[-1] == "ours"


def test_without_wrapt_status_still_answers_and_disable_is_harmless(with_doubles: Run) -> None:
    code = """
import sys
sys.modules["wrapt"] = None
import rope_patch, vllm
rope_patch.disable()
print(rope_patch.status()["targets"])
"""
    assert "not imported" in with_doubles(code).splitlines()[-1]


@pytest.mark.parametrize("missing", ["wrapt", "triton"])
def test_a_missing_package_leaves_vllm_usable(with_doubles: Run, tmp_path: Path, missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
import rope_patch, vllm
import vllm.model_executor.layers.rotary_embedding.base as base
print(base.RotaryEmbedding()(1, 2, 3), "forward_oot" in vars(base.RotaryEmbedding))
"""
    assert with_doubles(code).splitlines()[-1] == "native False"


def test_the_setting_is_fixed_at_import(with_doubles: Run) -> None:
    code = """
import os
import rope_target, rope_patch
os.environ["VLLM_ASCEND_TRITON_ROPE"] = "0"
import vllm.model_executor.layers.rotary_embedding.base as base
print(base.RotaryEmbedding()(1, 2, 3))
"""
    assert with_doubles(code) == "ours"
