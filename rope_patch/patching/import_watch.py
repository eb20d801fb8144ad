"""Notice imports, at almost no cost to a process that never imports vLLM: needs nothing but ``sys``.

wrapt takes 70 to 120 ms to import. So a finder is put first on ``sys.meta_path``. When ``vllm`` is imported, and before
vLLM's first line runs, the finder calls a function that imports the rest of rope_patch. That asks the finder to call it
again each time the import of a module ends in which something is to be replaced.

Others hook imports too: tracing agents, type checkers, pytest. The finder asks only the finders behind it, as if it was
not there, and never for a name that is already being asked for. It changes nobody's loader: it puts a loader of its own
around the one that was found, and gives the module the one that was found before the module's first line runs.
"""

import sys

from rope_patch.patching.loader import Loader, set_loader, util_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    Action = Callable[[ModuleType], None]

_thread = sys.modules["_thread"]  # built in, and always there
NEEDED = "wrapt", "torch", "triton"  # what replacing something imports


class Finder:
    """Has the finders behind it find a module, and calls what waits for the end of that module's import.

    ``find_spec`` runs under the interpreter's import lock, where importing anything can deadlock with another thread
    that is importing. So it imports nothing, and nothing of ours is called before the found module is executed.
    """

    def __init__(self, start: "Callable[[], None]") -> None:
        self.starts = [start]  # called before the first line of vLLM that runs; whoever pops it calls it
        self.actions: dict[str, list[Action]] = {}
        self.unseen: set[str] = set()  # modules with actions whose import was not noticed yet
        self.asking: set[tuple[str, int]] = set()
        self.leaving: list[Callable[[], None]] = []  # called if another copy of rope_patch takes over; see ``watch``

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        asked = name, _thread.get_ident()
        if asked in self.asking or not (self._wants(name) or self._overlooked(name)):
            return None
        self.asking.add(asked)
        try:
            spec = self._asked_behind(name, path, target)
        finally:
            self.asking.discard(asked)
        # A loader without exec_module is of Python's old protocol; another module of vLLM will do instead.
        if hasattr(getattr(spec, "loader", None), "exec_module") and not isinstance(spec.loader, Loader):
            set_loader(spec, Loader(spec.loader, self, name))
        return spec

    def _wants(self, name: str) -> bool:
        return name in self.actions or (bool(self.starts) and (name == "vllm" or name.startswith("vllm.")))

    def _overlooked(self, name: str) -> bool:
        """Whether a module was imported past this finder, by one before it that asks nobody.

        Then the module that is imported next gives the occasion to catch up; but not one of Python's own, since what we
        import may need it, or one that is waiting for it.
        """
        names = ("vllm",) if self.starts else (*self.unseen,)
        package = name.partition(".")[0]
        if package == "rope_patch" or package in sys.stdlib_module_names:
            return False
        return any(sys.modules.get(one) is not None for one in names)

    def _asked_behind(self, name: str, path: "Any", target: "Any") -> "Any":
        finders = list(sys.meta_path)
        here = [number for number, finder in enumerate(finders) if finder is self]
        for finder in finders[here[0] + 1 if here else 0 :]:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None

    def begin(self) -> None:
        """Call ``start``, if nobody has."""
        try:
            start = self.starts.pop()
        except IndexError:
            return
        try:
            start()
        except BaseException:  # Ctrl-C: the next module of vLLM will do
            self.starts.append(start)
            raise

    def before(self, name: str) -> None:
        """Called before the first line of a module runs."""
        if self._wants(name):
            self.unseen.discard(name)
            self.begin()
        elif not any(map(_is_half_imported, NEEDED)):  # else the next module will do
            self.catch_up()

    def catch_up(self) -> None:
        """Begin if vLLM was imported, and act on modules that were imported past this finder. Raises nothing of ours:
        whoever imports something now has nothing to do with it."""
        if sys.modules.get("vllm") is None:
            return
        if self.starts:
            self._be_first()
        self.begin()
        for name in (*self.unseen,):
            try:
                self.look(name)
            except Exception:  # under ``force``; vLLM's plugin raises it again
                continue

    def _be_first(self) -> None:
        """Stand before the one that asked nobody, for what vLLM imports next. Once in a process. No finder is missing
        from the list meanwhile, since other threads may be going through it."""
        if any(finder is self for finder in sys.meta_path[1:]):
            sys.meta_path.insert(0, self)
            for number in [number for number, finder in enumerate(sys.meta_path) if finder is self][:0:-1]:
                del sys.meta_path[number]

    def on_import(self, name: str, action: "Action") -> None:
        """Call ``action`` with module ``name`` each time its import ends, after a reload too; and now if it has."""
        self.actions.setdefault(name, []).append(action)
        self.unseen.add(name)
        self.look(name)

    def look(self, name: str) -> None:
        """Call the actions of module ``name`` if it was imported, or when its import ends. A module that waits for its
        first use (``LazyLoader``) is not executed."""
        module = sys.modules.get(name)
        if module is None:
            return
        self.unseen.discard(name)
        if type(module) is util_class("_LazyModule"):  # executed when it is used, by the loader that its spec has then
            spec = object.__getattribute__(module, "__spec__")
            if not isinstance(spec.loader, Loader):
                set_loader(spec, Loader(spec.loader, self, name))
            return
        from rope_patch.patching.import_end import when_complete

        if not when_complete(module, lambda: self.ended(name, module)):
            self.ended(name, module)

    def ended(self, name: str, module: "ModuleType") -> None:
        """Called when the last line of a module has run."""
        for action in self.actions.get(name, ()):
            action(module)


def _is_half_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)


finder: "Finder | None" = globals().get("finder")  # the same one after this module was reloaded


def watch(start: "Callable[[], None]") -> None:
    """Call ``start`` as soon as vLLM is imported; at once if it was already.

    Only one finder of rope_patch is on ``sys.meta_path``, however often rope_patch is imported. After a reload it is
    the same one. If rope_patch was removed from ``sys.modules`` and is imported anew, the earlier copy takes back what
    it did, and this one takes over.
    """
    global finder
    if finder is None:
        finder = Finder(start)
    else:
        finder.starts[:] = [start for _ in finder.starts]
    # First the finder, then the look into sys.modules: an import in another thread is noticed by one of the two. The
    # list is never rebuilt, since other threads may be going through it or adding to it.
    ours = [other for other in sys.meta_path if _is_ours(other)]
    if not ours:
        sys.meta_path.insert(0, finder)
    for other in ours:
        if other is not finder:
            sys.meta_path[sys.meta_path.index(other)] = finder
            for leave in getattr(other, "leaving", ()):
                leave()
    if sys.modules.get("vllm") is not None:
        finder.begin()


def the_finder() -> Finder:
    """The finder that ``watch`` put on ``sys.meta_path``."""
    if finder is None:
        raise RuntimeError("no finder: importing rope_patch calls watch first")
    return finder


def _is_ours(other: object) -> bool:
    kind = type(other)
    return (kind.__module__, kind.__name__) == (__name__, "Finder")
