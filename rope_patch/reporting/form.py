"""The form of what a process reports, as plain data: ``rope_patch.status()``, and a file of the report folder."""

import reprlib
import types
import typing
from typing import Any, TypedDict

from rope_patch.reporting import process


class SignatureStatus(TypedDict):
    """One signature: a combination of shape, dtypes and layout."""

    path: str  # "kernel", or "native" if the kernel does not serve it
    check: str  # "passed", "switched off", "not run yet" (first seen in a graph capture, say), or what was wrong
    plans: list[dict[str, Any]]  # ``Plan.facts`` of each, for growing numbers of tokens
    calls: int  # how many the kernel served
    fallbacks: dict[str, int]  # how many the original served, by reason


class Status(TypedDict):
    """What ``rope_patch.status()`` returns: plain data."""

    version: str
    setting: str | None
    mode: str
    enabled: bool
    capable: bool | None  # None before the first target's module is imported
    reason: str
    targets: dict[str, str]
    calls: dict[str, int]
    fallbacks: dict[str, int]
    signatures: dict[str, SignatureStatus]
    stale: dict[str, list[str]]  # for each replaced attribute, globals elsewhere that still hold the original
    environment: dict[str, str]  # rope_patch's own variables
    note: str


class Report(TypedDict):
    """One file of the report folder: the process that wrote it, when, and its ``rope_patch.status()``."""

    process: process.Process
    written: str  # UTC
    left_out: int  # signatures that the file has no room for; ``rope_patch.status()`` has all
    status: Status


class ReadReport(Report):
    """A report that was read from a file, with the time of its process's last touch."""

    heartbeat: float


def expect(value: Any, kind: Any, place: str) -> None:
    """Check that a JSON value has the type ``kind``, one of the types above or the type of one of their fields.

    Raises:
        ValueError: it has another type; names the place in the report, the value and what was expected.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if typing.is_typeddict(kind) and isinstance(value, dict):
        for name, inner in typing.get_type_hints(kind).items():
            if name not in value:
                raise ValueError(f"a report of another version: no {place}.{name}")
            expect(value[name], inner, f"{place}.{name}")
    elif origin is dict and isinstance(value, dict):
        for name, inside in value.items():
            expect(inside, parts[1], f"{place}.{reprlib.repr(name)}")
    elif origin is list and isinstance(value, list):
        for inside in value:
            expect(inside, parts[0], place)
    elif type(value) not in (parts if origin is types.UnionType else (kind,)) or _is_huge(value):
        expected = "an object" if typing.is_typeddict(kind) else getattr(kind, "__name__", str(kind))
        raise ValueError(f"{place} is {reprlib.repr(value)}, expected {expected if origin is None else kind}")


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) >= 2**63  # larger than any count, and perhaps too large to print
