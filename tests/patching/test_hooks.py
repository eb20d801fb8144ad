"""When targets are applied, and that they can be undone; on doubles of vLLM, without torch."""

import itertools

import pytest

from tests.conftest import Run

BASE = "import vllm.model_executor.layers.rotary_embedding.base as base\n"
STEPS = {
    "ours": "import rope_target, rope_patch",
    "vllm": "import vllm",
    "base": BASE,
    "model": BASE + "model = base.Scaled()",
}
START = STEPS["ours"] + "\n" + BASE
SHOW = """
import vllm.model_executor.layers.rotary_embedding.base as base
model = globals().get("model") or base.Scaled()
print(model(1, 2, 3), base.RotaryEmbedding()(1, 2, 3), base.EARLY(1, 2, 3), base.OwnMathematics()(1, 2, 3))
"""


@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)), ids="-".join)
def test_after_any_order_of_imports_and_construction_a_model_is_patched(
    with_doubles: Run, order: tuple[str, ...]
) -> None:
    code = "\n".join(STEPS[step] for step in order)
    assert with_doubles(code + SHOW).splitlines()[-1] == "ours ours ours its own"


def test_the_replacement_is_a_plain_function(with_doubles: Run) -> None:
    code = START + "print(type(vars(base.RotaryEmbedding)['forward_oot']).__name__)"
    assert with_doubles(code) == "function"


def test_disable_restores_the_identical_objects_and_enable_applies_ours_again(with_doubles: Run) -> None:
    code = (
        BASE
        + """
from vllm.custom_op import CustomOp
before = dict(vars(base.RotaryEmbedding)), dict(vars(CustomOp)), base.EARLY._forward_method.__func__
import rope_target, rope_patch
for _ in range(3):
    assert base.EARLY(1, 2, 3) == base.Scaled()(1, 2, 3) == "ours"
    rope_patch.disable(); rope_patch.disable()
    assert before == (dict(vars(base.RotaryEmbedding)), dict(vars(CustomOp)), base.EARLY._forward_method.__func__)
    assert "forward_oot" not in vars(base.RotaryEmbedding)
    assert base.EARLY(1, 2, 3) == base.Scaled()(1, 2, 3) == "native"
    rope_patch.enable(); rope_patch.enable()
print(rope_patch.status()["targets"]["rotary_embedding"], base.EARLY(1, 2, 3))
"""
    )
    assert with_doubles(code).splitlines()[-1] == "applied ours"


def test_frozen_instances_are_found_and_stay_frozen(with_doubles: Run) -> None:
    """vLLM calls ``gc.freeze`` when an engine has started, and ``gc.get_objects`` leaves frozen objects out."""
    code = (
        START
        + """
import gc
model = base.Scaled()
gc.freeze()
rope_patch.disable()
print(model(1, 2, 3), gc.get_freeze_count() > 0)
rope_patch.enable()
print(model(1, 2, 3))
"""
    )
    assert with_doubles(code).splitlines() == ["native True", "ours"]


def test_shallow_copies_share_a_bound_method_and_are_found(with_doubles: Run) -> None:
    code = (
        STEPS["ours"]
        + "\nrope_patch.disable()\n"
        + BASE
        + """
import copy
native = base.Scaled()
early = copy.copy(native)
rope_patch.enable()
late = copy.copy(native)
print(native(1, 2, 3), early(1, 2, 3), late(1, 2, 3))
rope_patch.disable()
print(native(1, 2, 3), early(1, 2, 3), late(1, 2, 3))
"""
    )
    assert with_doubles(code).splitlines() == ["ours ours ours", "native native native"]


def test_disabled_before_vllm_stays_native_until_enabled(with_doubles: Run) -> None:
    code = (
        STEPS["ours"]
        + "\nrope_patch.disable()\n"
        + BASE
        + """
print(base.EARLY(1, 2, 3))
rope_patch.enable()
print(base.EARLY(1, 2, 3))
"""
    )
    assert with_doubles(code).split()[0] == "native"
    assert with_doubles(code).splitlines()[-1] == "ours"


def test_each_mode_has_its_own_compile_cache_key_and_disabled_it_is_that_of_an_unpatched_process(
    with_doubles: Run,
) -> None:
    code = (
        START
        + """
import vllm.envs
print(vllm.envs.environment_variables["VLLM_ASCEND_TRITON_ROPE"]())
rope_patch.disable()
print(vllm.envs.environment_variables["VLLM_ASCEND_TRITON_ROPE"]())
"""
    )
    on, everything = (with_doubles(code, VLLM_ASCEND_TRITON_ROPE=mode).splitlines()[-2:] for mode in ("1", "all"))
    assert on[1] == everything[1] == "None"
    assert len({*on, *everything}) == 3
    assert "rotary_embedding" in on[0]


def test_enable_does_not_raise_the_error_of_a_target(with_doubles: Run) -> None:
    code = (
        START
        + """
rope_patch.disable()
base.RotaryEmbedding.forward_oot = lambda self, *args: "native"
def broken(*arguments): raise AttributeError("moved")
rope_target.replacement = broken
rope_patch.enable()
print(base.Scaled()(1, 2, 3), rope_patch.status()["targets"]["rotary_embedding"])
"""
    )
    assert with_doubles(code).splitlines()[-1] == "native failed: AttributeError: moved"


def test_imported_while_vllm_is_half_imported_it_applies_when_vllm_is_complete(with_doubles: Run) -> None:
    code = (
        """
import builtins
def act():
    import rope_target, rope_patch, sys
    base = sys.modules["vllm.model_executor.layers.rotary_embedding.base"]
    assert "forward_oot" not in vars(base.RotaryEmbedding)  # half a module is not touched
builtins.while_half_imported = act
"""
        + SHOW
    )
    assert with_doubles(code).splitlines()[-1] == "ours ours ours its own"


def test_actions_that_wait_for_a_half_imported_module_are_called_once_in_order(with_doubles: Run) -> None:
    code = """
import builtins, sys
import rope_patch
from rope_patch.patching import import_end
name = "vllm.model_executor.layers.rotary_embedding.base"
def wait():
    for number in 1, 2, 3:
        module = sys.modules[name]
        print(import_end.when_complete(module, lambda n=number: print(n, hasattr(sys.modules[name], "EARLY"))))
builtins.while_half_imported = wait
import importlib
module = importlib.import_module(name)
print(type(module.__spec__).__name__, import_end.when_complete(module, print))
"""
    expected = ["True"] * 3 + ["1 True", "2 True", "3 True", "ModuleSpec False"]
    assert with_doubles(code, DOUBLE_PLATFORM="cuda").splitlines() == expected


def test_a_failing_import_of_vllm_fails_as_without_us_and_can_be_retried(with_doubles: Run) -> None:
    code = (
        STEPS["ours"]
        + """
import builtins
def fail(): raise OSError("theirs")
builtins.while_half_imported = fail
try:
    import vllm.model_executor.layers.rotary_embedding.base
except OSError as error:
    print(error)
"""
        + "del builtins.while_half_imported\n"
        + BASE
        + "print(base.RotaryEmbedding.__name__)"
    )
    assert with_doubles(code).split() == ["theirs", "RotaryEmbedding"]


def test_a_target_that_raises_is_reported_and_vllm_runs(with_doubles: Run) -> None:
    code = (
        STEPS["ours"]
        + """
def broken(*arguments): raise AttributeError("moved")
rope_target.replacement = broken
"""
        + BASE
        + "print(base.EARLY(1, 2, 3), rope_patch.status()['targets'])"
    )
    printed = with_doubles(code)
    assert "native {'rotary_embedding': 'failed: AttributeError: moved'" in printed
    assert "vLLM serves natively" in printed


def test_a_target_that_is_not_applicable_stays_native_with_its_reason(with_doubles: Run) -> None:
    code = (
        STEPS["ours"]
        + """
def unknown(*arguments):
    from rope_patch.patching.targets import NotApplicable
    raise NotApplicable("no such method")
rope_target.replacement = unknown
"""
        + BASE
        + "print(base.EARLY(1, 2, 3), rope_patch.status()['targets'])"
    )
    assert with_doubles(code).startswith("native {'rotary_embedding': 'native: no such method'")


AGAIN = {
    "reloaded": "importlib.reload(base)\n",
    "imported anew": "del sys.modules[base.__name__]\n" + BASE,
}
STATE = 'rope_patch.status()["targets"]["rotary_embedding"]'


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("what", ["EARLY", "RotaryEmbedding.forward_oot"], ids=["of a module", "of a class"])
def test_a_module_that_is_executed_again_is_patched_again_and_what_was_there_before_is_native(
    with_doubles: Run, again: str, what: str
) -> None:
    code = f"""
import rope_target, rope_patch, importlib, sys
from rope_patch.patching.replacement import Replacement
make = lambda original, is_on: lambda *args: "ours" if is_on() else original(*args)
rope_target.replacement = lambda module, settings: Replacement(module, {what!r}, make)
{BASE}
old = base.EARLY
{again}
print(base.EARLY(1, 2, 3), old(1, 2, 3), {STATE})
rope_patch.disable()
print(base.EARLY(1, 2, 3), old(1, 2, 3), {STATE}.partition(";")[0])
rope_patch.enable()
print(base.EARLY(1, 2, 3), {STATE})
"""
    assert with_doubles(code).splitlines()[-3:] == ["ours native applied", "native native taken back", "ours applied"]


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_after_a_reload_that_no_import_hook_sees_the_status_says_gone_and_enable_applies_it_again(
    with_doubles: Run, again: str
) -> None:
    code = (
        f"{START}import importlib, sys\nhooks, sys.meta_path[:] = sys.meta_path[:], sys.meta_path[1:]\n{again}"
        + f"""
sys.meta_path[:] = hooks
print(base.EARLY(1, 2, 3), {STATE})
import vllm.envs
print(vllm.envs.environment_variables["VLLM_ASCEND_TRITON_ROPE"]())
for _ in range(2):
    rope_patch.enable()
    print(base.EARLY(1, 2, 3), base.Scaled()(1, 2, 3), {STATE})
"""
    )
    gone, key, applied, once_more = with_doubles(code).splitlines()[-4:]
    assert gone.startswith("native gone: its module was executed again")
    assert "enable()" in gone
    assert "rotary_embedding (gone: " in key
    assert applied == once_more == "ours ours applied"


def test_enable_makes_the_variables_known_again_after_a_reload_of_vllm_envs(with_doubles: Run) -> None:
    code = START + (
        "import importlib, vllm.envs\nimportlib.reload(vllm.envs)\nrope_patch.enable()\n"
        "print('rotary_embedding' in vllm.envs.environment_variables['VLLM_ASCEND_TRITON_ROPE']())"
    )
    assert with_doubles(code).splitlines()[-1] == "True"


def test_an_undo_that_fails_half_way_is_reported_and_finished_by_the_next_disable_or_enable(with_doubles: Run) -> None:
    code = (
        START
        + """
from rope_patch.patching import live
rebind, state = live.rebind, lambda: rope_patch.status()["targets"]["rotary_embedding"][:15]
def fails(*arguments): raise RuntimeError("dictionary changed size during iteration")
for finish in (rope_patch.disable, rope_patch.enable):
    live.rebind = fails
    rope_patch.disable()
    live.rebind = rebind
    print(state(), base.EARLY(1, 2, 3), end=" ")
    finish()
    print(state(), base.EARLY(1, 2, 3), base.Scaled()(1, 2, 3), end=" ")
    rope_patch.enable()
    print(state(), base.EARLY(1, 2, 3), base.Scaled()(1, 2, 3))
"""
    )
    assert with_doubles(code).splitlines()[-2:] == [
        "off, half taken native taken back; wha native native applied ours ours",
        "off, half taken native applied ours ours applied ours ours",
    ]


def test_globals_that_appear_during_the_search_for_copies_do_no_harm(with_doubles: Run) -> None:
    code = (
        START
        + """
import sys, types
class Busy(dict):
    def items(self):  # as if another thread added a global after each
        for pair in super().items():
            yield pair
            self[len(self)] = None
class Module(types.ModuleType):
    __dict__ = Busy(a=1, b=2)
sys.modules["busy"] = Module("busy")
rope_patch.disable()
print(base.EARLY(1, 2, 3), rope_patch.status()["targets"]["rotary_embedding"][:10])
"""
    )
    assert with_doubles(code).splitlines()[-1] == "native taken back"


def test_an_import_that_ends_just_when_an_action_begins_to_wait_is_not_missed(with_doubles: Run) -> None:
    code = """
import importlib.machinery, sys, types
import rope_patch
from rope_patch.patching import import_end
class Spec(importlib.machinery.ModuleSpec):
    def __getattribute__(self, name):
        was = object.__getattribute__(self, name)
        if name == "_initializing" and was:
            object.__setattr__(self, "_initializing", False)  # another thread's import ends right after the look
        return was
module = types.ModuleType("ends")
module.__spec__ = Spec("ends", None)
module.__spec__._initializing = True
sys.modules["ends"] = module
called = []
print(import_end.when_complete(module, lambda: called.append(1)), called, type(module.__spec__).__name__)
"""
    assert with_doubles(code) == "False [] Spec"


FORK = """
import os, signal, threading
begun, end = threading.Event(), threading.Event()
{arrange}
threading.Thread(target=act, daemon=True).start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(500)  # ends a child that waits forever for a lock, before pytest ends the test
    rope_patch.disable(); rope_patch.enable()
    print(base.EARLY(1, 2, 3), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
os._exit(0)
"""


def test_a_fork_while_another_thread_replaces_something_can_switch_off_and_on(with_doubles: Run) -> None:
    arrange = (
        START
        + """
from rope_patch.patching import live
rebind, here = live.rebind, os.getpid()
def slow(*arguments):
    if os.getpid() == here:
        begun.set(); end.wait()
    rebind(*arguments)
live.rebind = slow
act = rope_patch.disable
"""
    )
    assert with_doubles(FORK.format(arrange=arrange)).splitlines()[-2:] == ["ours", "0"]


def test_no_lock_is_held_while_the_platform_is_asked(with_doubles: Run) -> None:
    """Asking vLLM for its platform imports modules, and a thread that holds such an import's lock may wait for ours."""
    code = """
import faulthandler, threading
import rope_target, rope_patch
from rope_patch import capability
faulthandler.dump_traceback_later(500, exit=True)  # reports a deadlock before pytest ends the test
examine = capability.examine
def asked():
    other = threading.Thread(target=rope_patch.disable, daemon=True)
    other.start()
    other.join()
    print("free", flush=True)
    return examine()
capability.examine = asked
import vllm.model_executor.layers.rotary_embedding.base as base
"""
    assert with_doubles(code).splitlines()[0] == "free"


def test_where_upstream_has_changed_meanwhile_enable_asks_the_target_again(with_doubles: Run) -> None:
    code = (
        START
        + """
rope_patch.disable()
def unknown(*arguments):
    from rope_patch.patching.targets import NotApplicable
    raise NotApplicable("it takes x now")
makes, rope_target.replacement = rope_target.replacement, unknown
rope_patch.enable()
print(base.Scaled()(1, 2, 3), rope_patch.status()["targets"]["rotary_embedding"])
rope_target.replacement = makes
rope_patch.enable()
print(base.Scaled()(1, 2, 3), rope_patch.status()["targets"]["rotary_embedding"])
"""
    )
    assert with_doubles(code).splitlines()[-2:] == ["native native: it takes x now", "ours applied"]
