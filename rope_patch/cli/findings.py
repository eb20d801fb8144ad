"""What ``doctor`` finds in the environment without importing vLLM: packages, variables, ways in."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from rope_patch import __version__, settings
from rope_patch.cli import install, plugins
from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.run import BOOTSTRAP


class Finding(NamedTuple):
    """One thing that was looked at. ``ok`` is None if it is neither right nor wrong. ``fix`` says what helps."""

    name: str
    ok: bool | None
    found: str
    fix: str | None = None


def of_environment() -> Iterator[Finding]:
    """Versions, where packages are imported from, our variables, and the ways in."""
    yield Finding("rope_patch", None, f"{__version__}, Python {platform.python_version()}, {platform.machine()}")
    for line in importlib.metadata.requires("rope-patch") or ():
        needed, _, marker = line.partition(";")
        if "test" not in marker:
            yield _package(needed.strip(), hard=not marker)
    for name in ("vllm", "torch", "triton"):
        yield Finding(f"import {name}", None, _shown(name))
    yield from _variables()
    yield Finding("VLLM_PLUGINS", None, plugins.state())
    yield ways_in()


def variables() -> dict[str, str]:
    """rope_patch's variables, as this process has them."""
    return dict(settings.current().environment)


def _shown(module: str) -> str:
    """Which distributions contain ``module``, and the folder that it is imported from."""
    claims = importlib.metadata.packages_distributions().get(module, [])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in dict.fromkeys(claims))
    spec = importlib.util.find_spec(module)
    place = os.path.dirname(spec.origin) if spec and spec.origin else "not found"
    return f"{versions or 'no package of that name'}; answers from {place}" if spec else versions or "not installed"


def _package(needed: str, hard: bool) -> Finding:
    name, floor = re.fullmatch(r"([\w.-]+)\s*(?:>=\s*([\w.]+))?.*", needed).groups()  # type: ignore[union-attr]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        fix = f"pip install '{needed}'" if hard else None
        return Finding(name, False if hard else None, f"not installed; {_wanted(floor)}", fix)
    enough = floor is None or _numbers(version) >= _numbers(floor)
    fix = None if enough else f"pip install '{needed}'"
    return Finding(name, enough, f"{version}; {_wanted(floor)}", fix)


def _wanted(floor: str | None) -> str:
    return f"wanted {floor} or newer" if floor else "any will do"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


_MEANING = {
    settings.Mode.ON: "the kernel, where this process is capable of it",
    settings.Mode.ALL: "the kernel, for what a vendor operator serves too",
    settings.Mode.FORCE: "the kernel, or an error that says what is missing",
    settings.Mode.OFF: "off, as set",
}


def _variables() -> Iterator[Finding]:
    current = settings.current()
    for complaint in current.complaints:
        yield Finding("variables", False, complaint, "unset it, or give it a value that it knows")
    shown = ", ".join(f"{name}={value}" for name, value in current.environment.items()) or "none set"
    yield Finding("variables", None, f"{shown}: {_MEANING[current.mode]}")


def off_as_set() -> str:
    """Why rope_patch is switched off, if that was asked for; else empty."""
    current = settings.current()
    return current.why_off if current.mode is settings.Mode.OFF and not current.complaints else ""


def ways_in() -> Finding:
    """The ways by which processes of this environment would import rope_patch; one is enough."""
    ways, allowed = [], plugins.allowed()
    points = importlib.metadata.entry_points(group="vllm.general_plugins", name="rope_patch")
    if points and (allowed is None or "rope_patch" in allowed):
        ways.append("vLLM's plugin entry point")
    with contextlib.suppress(CannotAnswer):  # `rope-patch install` did not write that file
        ways += [str(install.place())] * (install.content(install.place()) is not None)
    if BOOTSTRAP in map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))):
        ways.append("sitecustomize on PYTHONPATH")
    if ways:
        return Finding("ways in", True, ", ".join(ways))
    if points:
        return Finding("ways in", False, "none: VLLM_PLUGINS keeps our entry point out", plugins.keeps_all())
    prefix = os.path.dirname(sys.executable)
    fix = f"{prefix}/pip install PATH, of rope_patch's source or its wheel"
    return Finding("ways in", False, "none: rope_patch is not installed here", fix)
