"""Modules made of upstream's source without running it: classes and functions, so that targets can look at them.

A function has the parameters, the defaults that are constants, the annotations (as text) and the code of upstream's,
and is never called. A class has such methods, and the bases that can be found in the same folder; decorators are left
out. What a module imports is looked up in the folder when it is asked for. All else, such as a platform's switches, is
taken to be there and true: conditions of a module (``if HAS_TRITON:``) hold.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


class Elsewhere:
    """What the source takes from somewhere else. It is true."""


class _Module(ModuleType):
    """A module that looks up what it imports when it is asked for it, as a name of a name."""

    def __init__(self, name: str, package: "Package") -> None:
        super().__init__(name)
        self._package, self._imports = package, dict[str, tuple[str, str]]()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._imports:
            raise AttributeError(name)
        module = self._package.module(self._imports[name][0])
        found = getattr(module, self._imports[name][1], None) or Elsewhere()
        setattr(self, name, found)
        return found


class Package:
    """The source below one folder, as ``registry.py`` writes it: ``vllm/…``, ``vllm_ascend/…``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._modules: dict[str, ModuleType | None] = {}

    def module(self, name: str) -> ModuleType | None:
        """The module, or None if the folder has no source of it."""
        if name not in self._modules:
            path = self.folder.joinpath(*name.split("."))
            files = [path / "__init__.py", path.with_suffix(".py")]
            file = next((file for file in files if file.exists()), None)
            self._modules[name] = self._made(name, file) if file else None
        return self._modules[name]

    def _made(self, name: str, file: Path) -> ModuleType:
        module = _Module(name, self)
        parents = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        for node in _statements(ast.parse(file.read_text()).body):
            if isinstance(node, ast.ImportFrom):
                base = [*parents[: len(parents) - node.level + 1]] if node.level else []
                source = ".".join([*base, *filter(None, [node.module])])
                module._imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
            elif isinstance(node, ast.FunctionDef) and node.name != "__getattr__":
                setattr(module, node.name, _function(node, module, file))
            elif isinstance(node, ast.ClassDef):
                setattr(module, node.name, self._class(node, module, file))
        return module

    def _class(self, node: ast.ClassDef, module: ModuleType, file: Path) -> type:
        bases = [getattr(module, base.id, None) for base in node.bases if isinstance(base, ast.Name)]
        members = {
            inner.name: _function(inner, module, file) for inner in node.body if isinstance(inner, ast.FunctionDef)
        }
        members |= {"__module__": module.__name__, "__qualname__": node.name}
        return type(node.name, tuple(base for base in bases if isinstance(base, type)), members)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """A module's statements, those below its conditions included."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _statements(node.body)
        else:
            yield node


def _function(node: ast.FunctionDef, module: ModuleType, file: Path) -> Any:
    """The function, or the static method, in a module of its own: nothing of the source is executed but its ``def``."""
    static = any(isinstance(found, ast.Name) and found.id == "staticmethod" for found in node.decorator_list)
    node.decorator_list = []
    for defaults in (node.args.defaults, node.args.kw_defaults):
        for place, default in enumerate(defaults):
            if default is not None and not isinstance(default, ast.Constant):
                defaults[place] = ast.copy_location(ast.Constant("…"), default)
    future = ast.parse("from __future__ import annotations").body  # so that none is evaluated
    space: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(ast.Module([*future, node], []), str(file), "exec"), space)
    return staticmethod(space[node.name]) if static else space[node.name]
