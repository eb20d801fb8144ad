"""Wait for vLLM, at no cost to a process that never imports it: the standard library only, and little of it.

wrapt takes 70 to 120 ms to import. So a finder stands first on ``sys.meta_path`` until somebody imports ``vllm``; then,
before vLLM's first line runs, what was asked for is started, which imports the rest.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_started = False


class Finder:
    """Finds what the finders after it find; a module that is ``wanted`` is executed by ``around(execute, module)``.

    ``find_spec`` runs under the interpreter's import lock, where importing anything can deadlock with another thread
    that is importing; so it imports nothing, and leaves that to the moment when the module is executed.
    """

    def __init__(self, wanted: "Callable[[str], bool]", around: "Callable[[Any, ModuleType], None]") -> None:
        self.wanted, self.around = wanted, around

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if not self.wanted(name):
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        _surround(spec.loader, self.around)
                    return spec
        return None


def _surround(loader: "Any", around: "Callable[[Any, ModuleType], None]") -> None:
    def exec_module(module: "ModuleType") -> None:
        del loader.exec_module
        around(loader.exec_module, module)

    try:  # noqa: SIM105  (contextlib is one import more than this file can afford)
        loader.exec_module = exec_module
    except AttributeError:
        pass  # a loader that takes no attributes: the next module of vLLM's has its turn


def _of_vllm(name: str) -> bool:
    return not _started and (name == "vllm" or name.startswith("vllm."))


def watch(start: "Callable[[], None]") -> None:
    """Call ``start`` as soon as vLLM is imported; at once if it was already."""

    def once() -> None:
        global _started
        _started = True
        start()

    def before(execute: "Any", module: "ModuleType") -> None:
        once()
        execute(module)

    # Before the look, so that an import in another thread is seen by one of the two.
    sys.meta_path.insert(0, Finder(_of_vllm, before))
    if "vllm" in sys.modules:
        once()


def when_complete(module: "ModuleType", action: "Callable[[], None]") -> bool:
    """Call ``action`` once ``module``, being imported right now, is complete; False if it is complete already.

    wrapt calls its hooks while a module's import is still going on; where it stands in ``sys.modules`` already, even
    before its last line has run. The import system announces completion nowhere, but marks it: it sets
    ``_initializing`` on the module's spec to False when the import ends, well or badly. Giving that one spec a class
    that notices the assignment is synchronous, in the importing thread, and needs no polling.
    """
    spec = getattr(module, "__spec__", None)
    if spec is None or not getattr(spec, "_initializing", False):
        return False
    kind: type = type(spec)
    if hasattr(kind, "rope_patch_actions"):  # somebody waits for this module already
        waiting = kind.rope_patch_actions
        waiting.append(action)
    else:
        waiting = [action]
        spec.__class__ = _announcing(kind, module, waiting)
    if getattr(spec, "_initializing", False):
        return True
    # Another thread's import ended between the look and now; unless the action was called, it is the caller's.
    try:
        waiting.remove(action)
    except ValueError:
        return True
    object.__setattr__(spec, "__class__", getattr(type(spec), "rope_patch_kind", type(spec)))
    return sys.modules.get(spec.name) is not module  # then the import failed


def _announcing(kind: type, module: "ModuleType", waiting: "list[Callable[[], None]]") -> type:
    """A class for the module's spec that calls who is ``waiting`` when ``_initializing`` becomes False."""

    class Announcing(kind):  # type: ignore[misc]
        rope_patch_actions = waiting
        rope_patch_kind = kind

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "_initializing" and not value:
                object.__setattr__(self, "__class__", kind)
                while waiting:
                    try:
                        act = waiting.pop(0)  # each is called once, by whoever takes it
                    except IndexError:
                        break
                    if sys.modules.get(self.name) is module:  # else the import failed
                        act()

    return Announcing
