"""Replace one attribute of a module or class, and undo that without a trace.

wrapt resolves the path and sets the attribute. The replacement is a plain function and not wrapt's proxy, since Dynamo
silently bypasses the proxy (torch 2.8, 2.9) or refuses to trace it (2.13), and it can be neither copied nor pickled.
"""

import contextlib
import gc
import sys
import types
from collections.abc import Callable
from typing import Any

Undo = Callable[[], None]

# For each replaced attribute: globals of other modules (``from module import name``) that still call the original.
stale_bindings: dict[str, list[str]] = {}


class ReplacedAgain(RuntimeError):
    """Other code has replaced the attribute after us; undoing ours would undo theirs too."""


def replace(module: types.ModuleType, path: str, make: Callable[[Any], Callable[..., Any]]) -> Undo:
    """Put ``make(original)`` at ``path`` in ``module``, re-bind live instances; return what undoes it."""
    import wrapt  # imported here, so that status() and disable() work where it is missing

    owner, attribute, original = wrapt.resolve_path(module, path)
    inherited = attribute not in vars(owner)
    # The module that defines the function is left out: its own calls are not the ones that this target replaces.
    defined_in = sys.modules.get(getattr(original, "__module__", ""))
    stale = [f"{holder}.{name}" for holder, module_, name in bindings(original) if module_ is not defined_in]
    replacement: Any = wrapt.wrap_object(module, path, make)  # type: ignore[arg-type]  # wrapt expects a proxy
    put_back = False

    def undo() -> None:
        """Raises ReplacedAgain before anything is done. After any other error a second call continues the work."""
        nonlocal put_back
        if not put_back:
            if vars(owner).get(attribute) is not replacement:
                raise ReplacedAgain(f"{module.__name__}.{path} was replaced again by {vars(owner).get(attribute)!r}")
            if inherited:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, original)
            put_back = True
        for _, holder, name in bindings(replacement):  # modules that did ``from module import name`` since
            setattr(holder, name, original)
        # What is inherited may have been replaced, or put back, since.
        rebind(owner, replacement, getattr(owner, attribute) if inherited else original)

    try:
        rebind(owner, original, replacement)
    except Exception:
        with contextlib.suppress(Exception):
            undo()
        raise
    stale_bindings[f"{module.__name__}.{path}"] = [name for name in stale if name != f"{module.__name__}.{path}"]
    return undo


def bindings(function: Any) -> list[tuple[str, types.ModuleType, str]]:
    """Every global that is ``function`` itself: (name of the module, the module, name of the global).

    ``from module import name`` makes such a global, which keeps the old function when ``module.name`` is replaced.
    The search goes through copies of the dictionaries, since other threads may be importing; ``dict.copy`` is atomic.
    """
    found = []
    for holder, module in sys.modules.copy().items():
        if isinstance(module, types.ModuleType):
            found += [(holder, module, name) for name, value in vars(module).copy().items() if value is function]
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
            bound = vars(candidate).get("_forward_method")
            if getattr(bound, "__func__", None) is old:
                candidate._forward_method = types.MethodType(new, candidate)


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
