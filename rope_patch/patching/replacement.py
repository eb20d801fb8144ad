"""A replacement: one attribute of vLLM, the original, and our function that stands in its place.

wrapt resolves the path and sets the attribute. Our function is a plain function and not wrapt's proxy, since Dynamo
silently bypasses the proxy (torch 2.8, 2.9) or refuses to trace it (2.13), and it can be neither copied nor pickled.
"""

import contextlib
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from rope_patch.patching import live, wrappers

IsOn = Callable[[], bool]
Make = Callable[[Any, IsOn], Callable[..., Any]]

APPLIED = "applied"
GONE = "gone: "
APPLIES_AGAIN = "rope_patch.enable() applies it again"
STAYS = "what was already traced or captured stays"


class Replacement:
    """Puts our function in the place of an attribute, takes it back, and says what is there now.

    ``make(original, is_on)`` makes our function, which must hand every call to the original while ``is_on()`` is False:
    another's wrapper, a copied binding or a bound method may hold it for longer than it is in place.

    Attributes:
        owner, attribute: the class or module, and the name of its attribute.
        original, ours: the function that was there, and the one that stands in its place.
        on: whether our function serves.
        stale: globals of other modules (``from module import name``) that held the original when ours was installed.
    """

    def __init__(self, module: types.ModuleType, path: str, make: Make) -> None:
        import wrapt  # imported here, so that status() and disable() work where it is missing

        self.path = f"{module.__name__}.{path}"
        self.on = False
        self.stale: tuple[str, ...] = ()
        self._module, self._in_module = module.__name__, path.rpartition(".")[0]
        self.owner, self.attribute, self.original = wrapt.resolve_path(module, path)
        self._inherited = self.attribute not in vars(self.owner)
        self._copies: list[tuple[types.ModuleType, str]] = []  # globals that ``undo`` changed
        self.ours = make(self._called_as_ever(), self._switch())
        self._code = self._code_now()

    def _called_as_ever(self) -> Any:
        """The original as a function that takes the instance first. Another may have put a descriptor there."""
        original = self.original
        if not isinstance(self.owner, type) or type(original) is types.FunctionType:
            return original

        @functools.wraps(original)
        def bound_and_called(instance: Any, *arguments: Any, **named: Any) -> Any:
            return live.bound(original, instance)(*arguments, **named)

        return bound_and_called

    def _switch(self) -> IsOn:
        def is_on() -> bool:
            return self.on

        # While Dynamo traces, it calls this function, and puts nothing of it into the graph or its guards.
        torch = sys.modules.get("torch")
        return torch.compiler.assume_constant_result(is_on) if torch else is_on

    def install(self, earlier: "Replacement | None" = None) -> None:
        """Put our function in place and re-bind live instances, those too that ``earlier``, of the same attribute, had
        bound to its original. If that fails, everything is as it was."""
        import wrapt

        self.stale = self._others_that_hold_the_original()
        wrapt.apply_patch(self.owner, self.attribute, self.ours)
        self.on = True
        try:
            self._bind_instances()
            if earlier is not None and earlier.owner is self.owner:
                live.rebind(self.owner, earlier.original, self.ours)
        except Exception:
            with contextlib.suppress(Exception):
                self.undo()
            raise

    def undo(self) -> None:
        """Switch off. If ours is in place, put the original back there and in copied bindings; re-bind live instances.

        Another's wrapper around ours is left alone, and hands its calls to the original through ours. If this raises,
        ours is off all the same, and a second call continues the work.
        """
        self.on = False
        if self._current() is self.ours and not self._is_rewritten():
            if self._inherited:
                delattr(self.owner, self.attribute)
            else:
                setattr(self.owner, self.attribute, self.original)
        if not self._is_reached():
            for _, holder, name in live.bindings(self.ours):  # modules that did ``from module import name`` since
                setattr(holder, name, self.original)
                self._copies.append((holder, name))
        # What is inherited may have been replaced, or put back, since.
        inherits = self._inherited and self.attribute not in vars(self.owner)
        live.rebind(self.owner, self.ours, getattr(self.owner, self.attribute) if inherits else self.original)

    def resume(self) -> bool:
        """Switch on again. Returns False, with nothing done, if something else is in our place now."""
        if self._executed_again():
            return False
        if self._is_reached():
            self.on = True
            self._bind_instances()
        elif getattr(self.owner, self.attribute, None) is self.original:
            self.install()
        else:
            return False
        for holder, name in self._copies:
            if getattr(holder, name, None) is self.original:
                setattr(holder, name, self.ours)
        self._copies.clear()
        return True

    def is_called(self) -> bool:
        """Whether calls of the attribute come to our function, be it on or off."""
        return not self._executed_again() and self._is_reached()

    def serves(self) -> bool:
        """Whether calls of the attribute come to our function, and it is on."""
        return self.on and self.is_called()

    def state(self) -> str:
        """What is there now, in words."""
        current = getattr(self.owner, self.attribute, None)
        if self._executed_again():
            what = f"{GONE}its module was executed again (importlib.reload, say); {APPLIES_AGAIN}"
            return what if self.on else f"taken back; {STAYS}"
        if current is self.ours:
            return (
                APPLIED if self.on else f"off, still in place: calls go to the original, disable() removes it; {STAYS}"
            )
        if self._is_reached():
            wrapped = f"wrapped by {wrappers.name_of(current)}"
            return f"{APPLIED}; {wrapped}" if self.on else f"off, {wrapped}: calls go to the original; {STAYS}"
        if self.on:
            who = wrappers.name_of(current)
            return f"{GONE}{who} is there instead, and does not seem to call ours; {APPLIES_AGAIN}"
        return f"taken back; {STAYS}"

    def _current(self) -> Any:
        return vars(self.owner).get(self.attribute)

    def _is_rewritten(self) -> bool:
        """Whether another has put a wrapper into our function's own code, as ddtrace does. Removing ours removes it."""
        return self._code_now() is not self._code

    def _code_now(self) -> Any:
        return getattr(self.ours, "__code__", None)  # what stands for a kernel is no function

    def _is_reached(self) -> bool:
        """Whether ours is in place, or within what others have put there."""
        current = self._current()
        return current is self.ours or (current is not None and wrappers.calls(current, self.ours))

    def _executed_again(self) -> bool:
        """Whether the module was executed again since, so that its class, or the module itself, is another one now."""
        module = sys.modules.get(self._module)
        now = getattr(module, self._in_module, None) if self._in_module else module
        return module is not None and now is not self.owner

    def _bind_instances(self) -> None:
        live.rebind(self.owner, self.original, self.ours)

    def _others_that_hold_the_original(self) -> tuple[str, ...]:
        # The module that defines the function is left out: its own calls are not the ones that this target replaces.
        defined_in = sys.modules.get(getattr(self.original, "__module__", ""))
        found = (
            f"{name}.{attribute}"
            for name, module, attribute in live.bindings(self.original)
            if module is not defined_in
        )
        return tuple(name for name in found if name != self.path)
