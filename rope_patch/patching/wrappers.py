"""Whether a function still calls ours, through wrappers that others put around it, and what to call those wrappers.

Only looked at, never called: no property or ``__getattr__`` of another's object runs. Classes and modules are not
looked into, since much of a process hangs on them.
"""

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

MOST = 1000  # objects that are looked at; a wrapper holds what it wraps within a few steps


def calls(outermost: Any, ours: Any) -> bool:
    """Whether ``outermost`` is ``ours``, or holds it in a way in which wrappers hold what they wrap.

    A yes is certain enough; a no is not: there are more ways to hold a function than anybody can look at.
    """
    seen, coming = {id(outermost)}, [outermost]
    for one in coming:  # grows while it is gone through
        if one is ours:
            return True
        for held in _held(one) if len(coming) < MOST else ():
            # type() and not isinstance(), which would run the __class__ property of a proxy.
            if not issubclass(type(held), type | types.ModuleType) and id(held) not in seen:
                seen.add(id(held))
                coming.append(held)
    return False


def _held(one: Any) -> Iterable[Any]:
    """What a function, method, partial, container or object holds. Told by ``type``, since proxies deny their class."""
    kind = type(one)
    if kind is types.FunctionType:
        return _of_function(one)
    if kind is types.MethodType:
        return one.__func__, one.__self__
    if kind is functools.partial or kind is functools.partialmethod:
        return one.func, *one.args
    if kind in (staticmethod, classmethod):
        return (one.__func__,)
    if kind is dict:
        return list(one.values())
    if kind in (list, tuple):
        return one
    return _of_proxy(one), vars(kind).get("__call__"), *_attributes(one).values()


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    yield function.__dict__.get("__wrapped__")
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    # As vllm-ascend and its forks patch: the function that was replaced is kept as a global of the patch's module.
    yield from (function.__globals__.get(name) for name in function.__code__.co_names)


def _of_proxy(one: Any, attribute: str = "__wrapped__") -> Any:
    """What one of wrapt's proxies stands for, or its wrapper (``_self_wrapper``); None for other objects."""
    if not any(base.__name__ == "ObjectProxy" for base in type(one).__mro__):
        return None
    try:
        return object.__getattribute__(one, attribute)
    except (AttributeError, ValueError):  # a proxy without a wrapper, or one that was not initialised
        return None


def _attributes(one: Any) -> dict[str, Any]:
    try:
        return dict(object.__getattribute__(one, "__dict__"))
    except AttributeError:
        return {}


def name_of(thing: Any) -> str:
    """Where a function is from, for people. ``functools.wraps`` gives a wrapper the names of what it wraps, so its code
    is asked."""
    if type(thing) is types.MethodType:
        return name_of(thing.__func__)
    if type(thing) is types.FunctionType:
        code = thing.__code__
        return f"{thing.__globals__.get('__name__', '?')}.{getattr(code, 'co_qualname', code.co_name)}"
    wrapper = _of_proxy(thing, "_self_wrapper")
    if wrapper is not None:
        return name_of(wrapper)
    kind = type(thing)
    return f"an object of {kind.__module__}.{kind.__qualname__}"
