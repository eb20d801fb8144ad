"""Who else in the process holds a function: globals of other modules, and live instances that are bound to it."""

import gc
import sys
import types
from typing import Any


def bindings(function: Any) -> list[tuple[str, types.ModuleType, str]]:
    """Every global that is ``function`` itself: (name of the module, the module, name of the global).

    ``from module import name`` makes such a global, which keeps the old function when ``module.name`` is replaced.
    The search goes through copies of the dictionaries, since other threads may be importing; ``dict.copy`` is atomic.
    """
    found = []
    for holder, module in sys.modules.copy().items():
        if isinstance(module, types.ModuleType):
            # Not ``vars(module)``, which executes a module that waits for its first use (``LazyLoader``).
            named = object.__getattribute__(module, "__dict__").copy()
            found += [(holder, module, name) for name, value in named.items() if value is function]
    return found


def rebind(owner: object, old: Any, new: Any) -> None:
    """Make live instances of class ``owner`` that dispatch to ``old`` dispatch to ``new``.

    vLLM's ``CustomOp.__init__`` stores the bound method that it dispatches to as ``_forward_method``. All live objects
    are searched, since vLLM keeps no list of its instances, and a shallow copy of one shares its bound method.
    """
    if not isinstance(owner, type):
        return
    for candidate in _live_objects_if_bound(old):
        # type() and not isinstance(), which would run the __class__ property of any proxy object in the process.
        if issubclass(type(candidate), owner):
            method = vars(candidate).get("_forward_method")
            if getattr(method, "__func__", None) is old:
                candidate._forward_method = bound(new, candidate)


def bound(attribute: Any, instance: object) -> Any:
    """What ``instance.name`` gives if ``attribute`` is what its class has under that name: a function, or a descriptor
    of another kind (``functools.partialmethod``, say)."""
    kind = type(attribute)
    return kind.__get__(attribute, instance, type(instance)) if hasattr(kind, "__get__") else attribute


def _live_objects_if_bound(function: Any) -> list[Any]:
    """All objects that the garbage collector tracks, including those that vLLM froze after start-up (``gc.freeze``).

    None if ``function`` has no bound method, as when its module has just been imported: to know that takes a third of
    the time of a loop over all objects.
    """
    if not gc.get_freeze_count():
        return gc.get_objects() if _bound(function) else []
    gc.unfreeze()
    try:
        gc.collect()  # so that the freeze below does not keep garbage for good
        return gc.get_objects() if _bound(function) else []
    finally:
        gc.freeze()


def _bound(function: Any) -> bool:
    return any(isinstance(one, types.MethodType) for one in gc.get_referrers(function))
