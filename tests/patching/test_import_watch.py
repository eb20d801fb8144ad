"""The finder and its loader are not noticed by others: recursion, copies of rope_patch, loaders, order of finders."""

import zipfile
from pathlib import Path

import pytest

from tests.conftest import DOUBLES, Run

BASE = "import vllm.model_executor.layers.rotary_embedding.base as base\n"
OURS = "import sys, rope_target, rope_patch\n"
USE = BASE + "print(base.Scaled()(1, 2, 3), base.EARLY(1, 2, 3))\n"
COUNT = "print(sum(type(f).__module__.startswith('rope_patch') for f in sys.meta_path))\n"

RELOAD = "import importlib; importlib.reload(rope_patch)\n"
# As a notebook does after an upgrade.
RELOAD_ALL = """
import importlib
for name in [n for n in sys.modules if n.startswith("rope_patch") and not n.endswith("targets.rotary_embedding")]:
    importlib.reload(sys.modules[name])
"""
PURGE = (
    "for name in [n for n in sys.modules if n.startswith(('rope_patch', 'rope_target'))]: del sys.modules[name]\n"
    + OURS
)
# A finder that asks all others, as tracing agents have them, with the guard that they have.
ASKS_ALL = """
class AsksAll:
    asking = set()
    def find_spec(self, name, path=None, target=None):
        if name in self.asking: return None
        self.asking.add(name)
        try:
            for finder in sys.meta_path:
                spec = finder.find_spec(name, path, target)
                if spec: return spec
        finally:
            self.asking.discard(name)
sys.meta_path.insert(0, AsksAll())
"""


@pytest.mark.parametrize("again", [RELOAD, RELOAD_ALL, PURGE], ids=["reloaded", "all reloaded", "purged"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("when", ["before vLLM", "after vLLM"])
def test_imported_again_in_whatever_way_it_is_there_once_and_off_and_on(
    with_doubles: Run, again: str, times: int, when: str
) -> None:
    steps = (OURS, again * times, USE) if when == "before vLLM" else (OURS, USE, again * times)
    off = "rope_patch.disable()\n" + USE + "print('forward_oot' in vars(base.RotaryEmbedding))\n"
    printed = with_doubles("".join(steps) + COUNT + USE + off + "rope_patch.enable()\n" + USE).splitlines()
    assert printed[-5:] == ["1", "ours ours", "native native", "False", "ours ours"]


@pytest.mark.parametrize("again", [RELOAD, PURGE], ids=["reloaded", "purged"])
def test_its_report_is_kept_once_by_the_copy_that_serves(with_doubles: Run, again: str, tmp_path: Path) -> None:
    code = OURS + USE + again + USE + "import threading, json, glob, time\n"
    code += "print(sum(t.name == 'rope_patch-report' for t in threading.enumerate()))\n"
    code += "rope_patch.disable(); time.sleep(2.5)\n"
    code += "print(*{s['status']['enabled'] for s in map(json.load, map(open, glob.glob('reports/*.json')))})\n"
    *_, threads, enabled = with_doubles(code, VLLM_ASCEND_TRITON_ROPE_REPORT="reports").splitlines()
    assert (threads, enabled) == ("1", "False")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("again", ["", RELOAD, PURGE], ids=["once", "reloaded", "purged"])
def test_a_finder_that_asks_all_others_does_not_recurse(with_doubles: Run, order: str, again: str) -> None:
    ours = OURS + again
    steps = ("import sys\n" + ASKS_ALL + ours) if order == "before" else (ours + ASKS_ALL)
    assert with_doubles(steps + USE).splitlines()[-1] == "ours ours"


def test_two_threads_that_import_vllm_start_it_once(with_doubles: Run) -> None:
    code = """
import sys, threading
import rope_target, rope_patch
from rope_patch.patching import import_watch
started = []
finder = import_watch.the_finder()
finder.starts[:] = [lambda: started.append(1)]
barrier = threading.Barrier(8)
def begin():
    barrier.wait()
    finder.begin()
threads = [threading.Thread(target=begin) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(started))
"""
    assert with_doubles(code) == "1"


LOADERS = """
import importlib.machinery, importlib.util
class Kept:
    \"\"\"Refuses new attributes, and hands everything to the loader that it stands for.\"\"\"
    __slots__ = ("inner", "executed")
    def __init__(self, inner): self.inner, self.executed = inner, []
    def create_module(self, spec): return self.inner.create_module(spec)
    def exec_module(self, module):
        self.executed.append(module.__name__)
        self.inner.exec_module(module)
class SetsItself(Kept):
    \"\"\"As some do: replaces its own exec_module, on the instance, while a module is executed.\"\"\"
    __slots__ = ("__dict__",)
    def exec_module(self, module):
        self.exec_module = lambda module: None
        super().exec_module(module)
        del self.exec_module
class OfClass:
    \"\"\"A loader that is a class, as FrozenImporter is.\"\"\"
    executed = []
    create_module = staticmethod(lambda spec: None)
    @classmethod
    def exec_module(cls, module):
        cls.executed.append(module.__name__)
        exec(compile(open(module.__file__).read(), module.__file__, "exec"), vars(module))
    def __new__(cls, inner): return cls
class Finds:
    loaders = []
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and name.partition(".")[0] == "vllm":
            cls.loaders.append(KIND(spec.loader))
            spec.loader = cls.loaders[-1]
            return spec
"""


@pytest.mark.parametrize("kind", ["Kept", "SetsItself", "OfClass"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_the_loaders_of_others_execute_what_they_found_and_stay_as_they_are(
    with_doubles: Run, kind: str, order: str
) -> None:
    theirs = "import sys\n" + LOADERS.replace("KIND", kind) + "sys.meta_path.insert(0, Finds)\n"
    code = theirs + OURS if order == "before" else OURS + theirs
    code += (
        """
import vllm, iniconfig
names = [sorted(vars(one)) for one in Finds.loaders if hasattr(one, "__dict__")]
"""
        + USE
        + """
print(type(vllm.__spec__.loader).__name__, vllm.__loader__ is vllm.__spec__.loader is Finds.loaders[0])
print("vllm" in Finds.loaders[0].executed, any(base.__name__ in one.executed for one in Finds.loaders))
print([sorted(vars(one)) for one in Finds.loaders if hasattr(one, "__dict__")][: len(names)] == names)
"""
    )
    served, loader, executed, untouched = with_doubles(code).splitlines()[-4:]
    assert served == "ours ours"
    assert loader == ("type True" if kind == "OfClass" else f"{kind} True")
    assert (executed, untouched) == ("True True", "True")


PASSED_THROUGH = {
    "inspect.getsource": "import vllm.envs, inspect\nassert 'VLLM_KNOWN' in inspect.getsource(vllm.envs)",
    "importlib.resources": "import vllm, importlib.resources as r\nassert (r.files('vllm') / 'envs.py').is_file()",
    "resources before the import": "spec = util.find_spec('vllm')\nassert spec.loader.get_resource_reader('vllm')",
    "pkgutil": "import pkgutil\nassert pkgutil.get_data('vllm', 'envs.py')",
    "the source before the import": "assert util.find_spec('vllm').loader.get_source('vllm') is not None",
    "runpy": "import runpy\nassert 'environment_variables' in runpy.run_module('vllm.envs')",
    "isinstance": "assert isinstance(util.find_spec('vllm').loader, importlib.machinery.SourceFileLoader)",
    "pickling of a spec": "import pickle\nspec = pickle.loads(pickle.dumps(util.find_spec('vllm')))\n"
    "assert type(spec.loader).__name__ == 'SourceFileLoader'",
    "copying of a spec": "import copy\nassert copy.deepcopy(util.find_spec('vllm')).loader.path",
    "pickling of an imported module's spec": "import pickle, vllm\nassert pickle.loads(pickle.dumps(vllm.__spec__))",
    "a module without a spec": "import types\nmodule = types.ModuleType('vllm')\n"
    "util.find_spec('vllm').loader.exec_module(module)",
    "the loader, once the module runs": "import vllm, vllm.envs\n"
    "assert type(vllm.__spec__.loader) is type(vllm.envs.__loader__) is importlib.machinery.SourceFileLoader",
}


@pytest.mark.parametrize("code", PASSED_THROUGH.values(), ids=PASSED_THROUGH)
def test_what_a_loader_is_asked_for_is_answered_as_without_us(with_doubles: Run, code: str) -> None:
    ours = OURS + "import importlib.machinery, importlib.util as util\n"
    assert with_doubles(ours + code + "\n" + USE).splitlines()[-1] == "ours ours"


def test_vllm_in_a_zip_file_is_patched(python: Run, tmp_path: Path) -> None:
    archive = tmp_path / "vllm.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in DOUBLES.rglob("*.py"):
            file.write(path, path.relative_to(DOUBLES))
    shown = "import vllm\nprint(type(vllm.__spec__.loader).__name__)\n"
    assert python(OURS + shown + USE, path=(archive,)).splitlines()[-2:] == ["zipimporter", "ours ours"]


BYPASS = """
import importlib.machinery
class Instruments:  # as type checkers: finds by itself, and asks nobody
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vllm":
            return importlib.machinery.PathFinder.find_spec(name, path, target)
sys.meta_path.insert(0, Instruments())
"""


def test_a_finder_before_ours_that_asks_nobody_delays_the_patch_to_the_next_import(with_doubles: Run) -> None:
    code = OURS + BYPASS + BASE + "import wrapt, iniconfig\n" + USE + "print(rope_patch.status()['targets'])"
    served, targets = with_doubles(code).splitlines()[-2:]
    assert served == "ours ours"
    assert "'rotary_embedding': 'applied'" in targets


def test_once_it_has_caught_up_it_is_asked_first(with_doubles: Run) -> None:
    code = OURS + BYPASS + "import vllm, iniconfig\n" + USE
    assert with_doubles(code).splitlines()[-1] == "ours ours"


def test_a_module_with_a_loader_of_the_old_protocol_is_left_to_python(with_doubles: Run) -> None:
    code = (
        OURS
        + """
from rope_patch.patching import import_watch
import importlib.machinery
class Old:
    def find_spec(self, name, path=None, target=None):
        if name == "vllm":
            return importlib.machinery.ModuleSpec(name, "an old loader")
sys.meta_path.insert(1, Old())
print(import_watch.the_finder().find_spec("vllm").loader)
"""
    )
    assert with_doubles(code) == "an old loader"


NOTE = """
class Notes:
    asked = []
    def find_spec(self, name, path=None, target=None):
        self.asked.append(name)
sys.meta_path.insert(0, Notes())
"""


def test_a_finder_before_ours_is_asked_once_for_each_module(with_doubles: Run) -> None:
    code = OURS + NOTE + USE + "print([n for n in Notes.asked if n.startswith('vllm') and Notes.asked.count(n) > 1])"
    assert with_doubles(code).splitlines()[-1] == "[]"


def test_an_ordinary_import_of_vllm_needs_no_catching_up(with_doubles: Run) -> None:
    """What is imported while a target's module is being executed is nothing that was overlooked."""
    code = (
        """
import sys, types, builtins, rope_target, rope_patch
from rope_patch.patching import import_watch
finder, caught, found = import_watch.the_finder(), [], []
catch_up = import_watch.Finder.catch_up
import_watch.Finder.catch_up = lambda self: (caught.append(1), catch_up(self))
def act():
    import iniconfig
    found.append(type(sys.modules["vllm.model_executor.layers.rotary_embedding.base"].__spec__).__name__)
builtins.while_half_imported = act
"""
        + USE
        + "print(len(caught), found, rope_target.made)"
    )
    assert with_doubles(code).splitlines()[-1] == "0 ['ModuleSpec'] 1"


ODD = {
    "a module without a name": "del __name__",
    "a module that leaves": "import sys; del sys.modules[__name__]; sys.modules[__name__] = sys",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_module_is_imported_as_without_us(with_doubles: Run, tmp_path: Path, odd: str) -> None:
    (tmp_path / "odd.py").write_text(odd)
    code = OURS + BYPASS + f"sys.path.insert(0, {str(tmp_path)!r})\nimport vllm\nimport odd\n" + USE
    assert with_doubles(code).splitlines()[-1] == "ours ours"


@pytest.mark.parametrize("occasion", ["import rope_patch.vllm_plugin as p; p.register()", "rope_patch.enable()"])
def test_vllms_plugin_and_enable_catch_up(with_doubles: Run, occasion: str) -> None:
    code = OURS + BYPASS + BASE + occasion + "\n" + USE
    assert with_doubles(code).splitlines()[-1] == "ours ours"


def test_under_force_an_import_that_has_nothing_to_do_with_vllm_does_not_fail(with_doubles: Run) -> None:
    code = OURS + BYPASS + BASE + "import iniconfig\nimport rope_patch.vllm_plugin as plugin\n"
    code += "try: plugin.register()\nexcept RuntimeError as error: print(type(error).__name__)\n"
    printed = with_doubles(code, VLLM_ASCEND_TRITON_ROPE="force", DOUBLE_PLATFORM="cuda")
    assert printed.splitlines()[-1] == "NotCapable"


def test_an_interrupted_start_is_made_by_the_next_module(with_doubles: Run) -> None:
    code = (
        OURS
        + """
import typing, logging
from rope_patch.patching import import_watch
finder = import_watch.the_finder()
(start,) = finder.starts
def interrupted():
    finder_starts = finder.starts
    raise KeyboardInterrupt
finder.starts[:] = [interrupted]
try: import vllm
except KeyboardInterrupt: print("interrupted")
finder.starts[:] = [start for _ in finder.starts]
"""
        + USE
    )
    assert with_doubles(code).splitlines()[-2:] == ["interrupted", "ours ours"]


def test_enable_does_not_execute_a_module_that_waits_for_its_first_use(with_doubles: Run) -> None:
    code = (
        """
import importlib.util, sys
NAME = "vllm.model_executor.layers.rotary_embedding.mrope"
import vllm.model_executor.layers
spec = importlib.util.find_spec(NAME)
spec.loader = importlib.util.LazyLoader(spec.loader)
module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""
        + OURS
        + "rope_patch.disable(); rope_patch.enable()\n"
    )
    code += "print(type(sys.modules[NAME]).__name__)\n"
    assert with_doubles(code).splitlines()[-1] == "_LazyModule"


def test_after_a_purge_the_key_of_vllms_compile_cache_is_that_of_the_newest_copy(with_doubles: Run) -> None:
    code = OURS + USE + PURGE + USE + "import vllm.envs\nknown = vllm.envs.environment_variables\n"
    code += "print(known['VLLM_ASCEND_TRITON_ROPE']())\nrope_patch.disable()\nprint('VLLM_ASCEND_TRITON_ROPE' in known)"
    on, off = with_doubles(code).splitlines()[-2:]
    assert "on, rotary_embedding" in on
    assert off == "False"
