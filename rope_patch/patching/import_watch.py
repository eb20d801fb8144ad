"""Notice the import of vLLM, at almost no cost to a process that never imports it: needs nothing but ``sys``.

wrapt takes 70 to 120 ms to import. So a finder is put first on ``sys.meta_path``. When ``vllm`` is imported, and before
vLLM's first line runs, the finder calls a function that imports wrapt and the rest of rope_patch.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_started = False


class Finder:
    """For modules that are ``wanted``: asks the finders after it, and has ``around(execute, module)`` execute them.

    ``find_spec`` runs under the interpreter's import lock, where importing anything can deadlock with another thread
    that is importing. So it imports nothing; ``around`` may, since it runs when the module is executed.
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

    try:  # noqa: SIM105  (this file must not import contextlib)
        loader.exec_module = exec_module
    except AttributeError:
        pass  # this loader takes no attributes; the next module of vLLM will be tried


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

    # First the finder, then the look into sys.modules: so an import in another thread is noticed by one of the two.
    sys.meta_path.insert(0, Finder(_of_vllm, before))
    if "vllm" in sys.modules:
        once()


def when_complete(module: "ModuleType", action: "Callable[[], None]") -> bool:
    """Call ``action`` when the import of ``module`` has ended; return False if it has ended already.

    wrapt calls its hooks while the module is still being imported, and, if the module is already in ``sys.modules``,
    even before its last line has run. Python has no hook for the end of an import, but it marks the end: it sets
    ``_initializing`` on the module's spec to False, whether the import succeeded or not. So this one spec gets a class
    that notices the assignment. That needs no polling, and ``action`` runs in the thread that imports.
    """
    spec = getattr(module, "__spec__", None)
    if spec is None or not getattr(spec, "_initializing", False):
        return False
    kind: type = type(spec)
    if hasattr(kind, "rope_patch_actions"):  # another action already waits for this module
        waiting = kind.rope_patch_actions
        waiting.append(action)
    else:
        waiting = [action]
        spec.__class__ = _announcing(kind, module, waiting)
    if getattr(spec, "_initializing", False):
        return True
    # Another thread's import has ended since the first look. The class may not have noticed: then the action is still
    # waiting, and the caller has to run it.
    try:
        waiting.remove(action)
    except ValueError:
        return True
    object.__setattr__(spec, "__class__", getattr(type(spec), "rope_patch_kind", type(spec)))
    return sys.modules.get(spec.name) is not module  # True if the import failed, since there is nothing to act on


def _announcing(kind: type, module: "ModuleType", waiting: "list[Callable[[], None]]") -> type:
    """A class for the module's spec that calls the ``waiting`` actions when ``_initializing`` becomes False."""

    class Announcing(kind):  # type: ignore[misc]
        rope_patch_actions = waiting
        rope_patch_kind = kind

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "_initializing" and not value:
                object.__setattr__(self, "__class__", kind)
                while waiting:
                    try:
                        act = waiting.pop(0)  # several threads may be here; each action is called by one of them
                    except IndexError:
                        break
                    if sys.modules.get(self.name) is module:  # otherwise the import failed
                        act()

    return Announcing
