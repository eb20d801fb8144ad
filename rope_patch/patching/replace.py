"""Replace one attribute of a module or class, and take that back without a trace.

wrapt resolves the path and puts the replacement in place. What lands there is a plain function, never wrapt's proxy:
Dynamo bypasses the proxy silently (torch 2.8, 2.9) or refuses to trace it (2.13), and it neither copies nor pickles.
"""

import contextlib
import gc
import sys
import types
from collections.abc import Callable
from typing import Any

Undo = Callable[[], None]

# By what was replaced: globals elsewhere (``from module import name``) that go on calling the original.
stale_bindings: dict[str, list[str]] = {}


class SomebodyElses(RuntimeError):
    """An attribute that was replaced once more after us cannot be taken back without undoing theirs."""


def replace(module: types.ModuleType, path: str, make: Callable[[Any], Callable[..., Any]]) -> Undo:
    """Put ``make(original)`` at ``path`` in ``module``, re-bind live instances, and return what undoes both."""
    import wrapt  # here, so that status() and disable() answer where it is missing

    owner, attribute, original = wrapt.resolve_path(module, path)
    inherited = attribute not in vars(owner)
    # Not where it is defined: who calls it from there is none of this target's business.
    defined_in = sys.modules.get(getattr(original, "__module__", ""))
    stale = [f"{holder}.{name}" for holder, module_, name in bindings(original) if module_ is not defined_in]
    replacement: Any = wrapt.wrap_object(module, path, make)  # type: ignore[arg-type]  # wrapt expects a proxy
    put_back = False

    def undo() -> None:
        """Raises SomebodyElses with nothing done. After any other error it may be called again, and goes on."""
        nonlocal put_back
        if not put_back:
            if vars(owner).get(attribute) is not replacement:
                raise SomebodyElses(f"{module.__name__}.{path} was replaced again by {vars(owner).get(attribute)!r}")
            if inherited:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, original)
            put_back = True
        for _, holder, name in bindings(replacement):  # imported by name since: from module import name
            setattr(holder, name, original)
        rebind(owner, replacement, original)

    try:
        rebind(owner, original, replacement)
    except Exception:
        with contextlib.suppress(Exception):
            undo()
        raise
    stale_bindings[f"{module.__name__}.{path}"] = [name for name in stale if name != f"{module.__name__}.{path}"]
    return undo


def bindings(function: Any) -> list[tuple[str, types.ModuleType, str]]:
    """Modules, each with the name it is imported by, and the global of theirs that is ``function`` itself.

    ``from module import name`` copies: such a global is not reached by replacing the name in the module. Copies are
    looked through: ``dict.copy`` is one step, and other threads go on importing.
    """
    found = []
    for holder, module in sys.modules.copy().items():
        if isinstance(module, types.ModuleType):
            found += [(holder, module, name) for name, value in vars(module).copy().items() if value is function]
    return found


def rebind(owner: object, old: Any, new: Any) -> None:
    """Point the dispatch of live instances of class ``owner`` from ``old`` to ``new``.

    vLLM's ``CustomOp.__init__`` stores the bound method that it dispatches to as ``_forward_method``. Every live
    object is looked at, since no cache of vLLM's knows all of them.
    """
    if not isinstance(owner, type):
        return
    for candidate in _live_objects():
        # type(), not isinstance(): that would run the __class__ property of whatever proxies live in the process.
        if issubclass(type(candidate), owner):
            bound = vars(candidate).get("_forward_method")
            if getattr(bound, "__func__", None) is old:
                candidate._forward_method = types.MethodType(new, candidate)


def _live_objects() -> list[Any]:
    """Everything that the garbage collector knows, what vLLM froze after start-up (``gc.freeze``) included."""
    if not gc.get_freeze_count():
        return gc.get_objects()
    gc.unfreeze()
    try:
        gc.collect()  # as before any freeze: garbage must not be frozen for good
        return gc.get_objects()
    finally:
        gc.freeze()
