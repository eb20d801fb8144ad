"""A loader that stands around another one until its module is executed. Imported into every process: needs ``sys``."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Protocol

    class Finder(Protocol):
        """What is told of the execution of a module: ``import_watch.Finder``."""

        def before(self, name: str) -> None: ...
        def ended(self, name: str, module: ModuleType) -> None: ...


class Loader:
    """Stands around another loader until the module is executed. Whatever it is asked for is the other loader's."""

    def __init__(self, loader: "Any", finder: "Finder", name: str) -> None:
        self.rope_patch_loader, self.rope_patch_finder, self.rope_patch_name = loader, finder, name

    def exec_module(self, module: "ModuleType") -> None:
        loader, finder, name = self.rope_patch_loader, self.rope_patch_finder, self.rope_patch_name
        named = _dictionary(module)  # ``module.name`` would execute a lazy module
        spec = named.get("__spec__")
        if getattr(spec, "loader", None) is self:
            set_loader(spec, loader)
        if named.get("__loader__") is self:
            named["__loader__"] = loader
        if type(loader) is util_class("LazyLoader"):
            loader.exec_module(module)  # runs nothing, and gives the module the loader that will
            if spec is not None:
                set_loader(spec, Loader(spec.loader, finder, name))
            return
        finder.before(name)
        loader.exec_module(module)
        finder.ended(name, module)

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


def set_loader(spec: "Any", loader: "Any") -> None:
    try:  # noqa: SIM105  (this file must not import contextlib)
        spec.loader = loader
    except AttributeError:
        pass  # another's spec, which cannot be changed; the next module will do


def _dictionary(module: "Any") -> "dict[str, Any]":
    try:
        found: dict[str, Any] = object.__getattribute__(module, "__dict__")
    except AttributeError:  # not a module, but what a loader has put there
        return {}
    return found


def util_class(name: str) -> "Any":
    """One of the two classes by which ``importlib.util`` puts a module's execution off until it is used."""
    return getattr(sys.modules.get("importlib.util"), name, Loader)
