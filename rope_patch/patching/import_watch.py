"""Notice imports, at almost no cost to a process that never imports vLLM: needs nothing but ``sys``.

wrapt takes 70 to 120 ms to import. So a finder is put first on ``sys.meta_path``. When ``vllm`` is imported, and before
vLLM's first line runs, the finder calls a function that imports the rest of rope_patch. That asks the finder to call it
again each time the import of a module ends in which something is to be replaced.

Others hook imports too: tracing agents, type checkers, pytest. The finder asks only the finders behind it, as if it was
not there, and never for a name that is already being asked for. It changes nobody's loader: it puts a loader of its own
around the one that was found, and gives the module the one that was found before the module's first line runs.
"""

import sys

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
            spec.loader = Loader(spec.loader, self)
        return spec

    def _wants(self, name: str) -> bool:
        return name in self.actions or (bool(self.starts) and (name == "vllm" or name.startswith("vllm.")))

    def _overlooked(self, name: str) -> bool:
        """Whether a module was imported past this finder, by one before it that asks nobody.

        Then the module that is imported next gives the occasion to catch up; but not one of Python's own, since what we
        import may need it, or one that is waiting for it.
        """
        past = "vllm" in sys.modules if self.starts else any(one in sys.modules for one in (*self.unseen,))
        package = name.partition(".")[0]
        return past and package != "rope_patch" and package not in sys.stdlib_module_names

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
        start()

    def before(self, name: str) -> None:
        """Called before the first line of a module runs."""
        if self._wants(name):
            self.begin()
        elif not any(map(_is_half_imported, NEEDED)):  # else the next module will do
            self.catch_up()

    def catch_up(self) -> None:
        """Begin if vLLM was imported, act on modules that were imported past this finder, and be the first again."""
        if "vllm" not in sys.modules:
            return
        # One assignment, since other threads may be going through the list.
        sys.meta_path[:] = [self, *(finder for finder in sys.meta_path if finder is not self)]
        self.begin()
        for module in map(sys.modules.get, (*self.unseen,)):
            if module is not None:
                self._ended_or_later(module)

    def ended(self, module: "ModuleType") -> None:
        """Called when the last line of a module has run."""
        name = object.__getattribute__(module, "__name__")
        self.unseen.discard(name)
        for action in self.actions.get(name, ()):
            action(module)

    def on_import(self, name: str, action: "Action") -> None:
        """Call ``action`` with module ``name`` each time its import ends, after a reload too; and now if it has."""
        self.actions.setdefault(name, []).append(action)
        self.unseen.add(name)
        module = sys.modules.get(name)
        if module is not None:
            self._ended_or_later(module)

    def _ended_or_later(self, module: "ModuleType") -> None:
        if type(module) is _lazy("_LazyModule"):  # executed when it is used, by the loader that its spec has then
            self.unseen.discard(object.__getattribute__(module, "__name__"))
            spec = object.__getattribute__(module, "__spec__")
            if not isinstance(spec.loader, Loader):
                spec.loader = Loader(spec.loader, self)
            return
        from rope_patch.patching.import_end import when_complete

        if not when_complete(module, lambda: self.ended(module)):
            self.ended(module)


class Loader:
    """Stands around another loader until the module is executed. Whatever it is asked for is the other loader's."""

    def __init__(self, loader: "Any", finder: Finder) -> None:
        self.rope_patch_loader, self.rope_patch_finder = loader, finder

    def exec_module(self, module: "ModuleType") -> None:
        loader, finder = self.rope_patch_loader, self.rope_patch_finder
        named = object.__getattribute__(module, "__dict__")  # ``module.name`` would execute a lazy module
        spec = named.get("__spec__")
        if getattr(spec, "loader", None) is self:
            spec.loader = loader
        if named.get("__loader__") is self:
            named["__loader__"] = loader
        if type(loader) is _lazy("LazyLoader"):
            loader.exec_module(module)  # runs nothing, and gives the module the loader that will
            spec.loader = Loader(spec.loader, finder)
            return
        finder.before(named["__name__"])
        loader.exec_module(module)
        finder.ended(module)

    def __getattr__(self, name: str) -> "Any":
        if name == "rope_patch_loader":
            raise AttributeError(name)
        return getattr(self.rope_patch_loader, name)

    @property  # type: ignore[misc]
    def __class__(self) -> "Any":  # for isinstance()
        return self.rope_patch_loader.__class__

    def __reduce_ex__(self, protocol: "Any") -> "Any":
        """Pickled or copied, it is the other loader."""
        return tuple.__getitem__, ((self.rope_patch_loader,), 0)


def _is_half_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)


def _lazy(name: str) -> "Any":
    """One of the two classes by which ``importlib.util`` puts a module's execution off until it is used."""
    return getattr(sys.modules.get("importlib.util"), name, Loader)


finder: Finder | None = None


def watch(start: "Callable[[], None]") -> None:
    """Call ``start`` as soon as vLLM is imported; at once if it was already.

    Only one finder of rope_patch is on ``sys.meta_path``, however often rope_patch is imported. After
    ``importlib.reload(rope_patch)`` it is the same one. If rope_patch was removed from ``sys.modules`` and is imported
    anew, the earlier copy takes back what it did, and this one takes over.
    """
    global finder
    if finder is None:
        finder = Finder(start)
    else:
        finder.starts[:] = [start for _ in finder.starts]
    ours = [other for other in sys.meta_path if _is_ours(other)]
    # First the finder, then the look into sys.modules: an import in another thread is noticed by one of the two.
    sys.meta_path[:] = [finder, *(other for other in sys.meta_path if not _is_ours(other))]
    for other in ours:
        for leave in getattr(other, "leaving", ()) if other is not finder else ():
            leave()
    if "vllm" in sys.modules:
        finder.begin()


def the_finder() -> Finder:
    """The finder that ``watch`` put on ``sys.meta_path``."""
    assert finder is not None, "importing rope_patch calls watch"
    return finder


def _is_ours(other: object) -> bool:
    kind = type(other)
    return (kind.__module__, kind.__name__) == (__name__, "Finder")
