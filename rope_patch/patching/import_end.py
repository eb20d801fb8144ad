"""The end of an import that had begun before ``import_watch`` could put a loader around the module's."""

import sys
from collections.abc import Callable
from types import ModuleType


def when_complete(module: ModuleType, action: Callable[[], None]) -> bool:
    """Call ``action`` when the import of ``module`` has ended; return False if it has ended already.

    Python has no hook for the end of an import that has begun, but it marks the end: it sets ``_initializing`` on the
    module's spec to False, whether the import succeeded or not. So this one spec gets a class that notices the
    assignment. That needs no polling, and ``action`` runs in the thread that imports.
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


def _announcing(kind: type, module: ModuleType, waiting: list[Callable[[], None]]) -> type:
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
                        try:
                            act()
                        except BaseException:
                            sys.modules.pop(self.name, None)  # as Python does where an import fails
                            raise

    return Announcing
