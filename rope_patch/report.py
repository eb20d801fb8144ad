"""What happened in this process, for ``rope_patch.status()``."""

import logging
import reprlib
import types
import typing
from collections import Counter, defaultdict
from typing import Any, TypedDict

# Below vLLM's logger, so that vLLM's handlers and level apply.
logger = logging.getLogger("vllm.rope_patch")

# How often each path served, as the host saw it: a replayed graph runs without the host, and is not counted.
calls: Counter[str] = Counter()
# Why calls went to the original, and how often. In compiled mode the decision is taken, and counted, once per trace.
fallbacks: Counter[str] = Counter()
# Signatures that the first-use check has seen, in words: None if it passed, else what was wrong.
signatures: dict[str, str | None] = {}
# Globals that held a replaced function before we came (``from module import name``): they go on calling the original.
stale: dict[str, list[str]] = {}
# Per signature, how often the kernel served: a list of one number, so that a call can count without a look-up.
served: defaultdict[tuple[object, ...], list[int]] = defaultdict(lambda: [0])
# Per signature and reason, how often the original did.
declined: Counter[tuple[tuple[object, ...], str]] = Counter()
# Per signature, the plans that its calls are tiled with, for ever more tokens.
plans: dict[tuple[object, ...], list[dict[str, Any]]] = {}

_warned: set[str] = set()


class Signature(TypedDict):
    """One combination of shape, dtypes and layout."""

    path: str  # "kernel", or "native" once a fault retired it
    check: str  # "passed", "switched off", "not run yet" (met in a graph capture), or what was wrong
    plans: list[dict[str, Any]]  # of each number of tokens, the fields of ``rope_patch.kernels.plan.Plan``
    calls: int  # that the kernel served
    fallbacks: dict[str, int]  # that the original served, by reason


class Status(TypedDict):
    """What ``rope_patch.status()`` returns: plain data."""

    version: str
    setting: str | None
    mode: str
    enabled: bool
    capable: bool | None  # None: not examined, since no target's module was imported yet
    reason: str
    targets: dict[str, str]
    calls: dict[str, int]
    fallbacks: dict[str, int]
    signatures: dict[str, Signature]
    stale: dict[str, list[str]]  # by what was replaced: globals elsewhere that still hold the original
    environment: dict[str, str]  # rope_patch's own variables
    note: str


def words(signature: tuple[object, ...]) -> str:
    """A signature as a person reads it; the device is its last word."""
    return " ".join(str(part).replace("torch.", "") for part in signature)


def of_signatures(checking: bool) -> dict[str, Signature]:
    """Every signature seen, by its words. Copies first: other threads go on counting."""
    seen: dict[str, Signature] = {}

    def entry(name: str) -> Signature:
        fault = signatures.get(name)
        check = "not run yet" if name not in signatures else fault or ("passed" if checking else "switched off")
        path = "kernel" if check in ("passed", "switched off") else "native"
        return seen.setdefault(name, Signature(path=path, check=check, plans=[], calls=0, fallbacks={}))

    for name in signatures.copy():
        entry(name)
    for signature, tiles in plans.copy().items():
        if words(signature) in seen:  # else its check is still going on
            entry(words(signature))["plans"] = list(tiles)
    for signature, (count,) in served.copy().items():
        if words(signature) in seen:
            entry(words(signature))["calls"] = count
    for (signature, reason), count in declined.copy().items():
        entry(words(signature))["fallbacks"][reason] = count
    return seen


def warn_once(message: str) -> None:
    """A WARNING that a person should act on, once per process and text."""
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)


def expect(value: Any, kind: Any, place: str) -> None:
    """See that JSON that somebody wrote has the type ``kind``, one of those above or of their fields.

    Raises:
        ValueError: it has not; names the place in it, what is there and what was expected.
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
    return isinstance(value, int) and abs(value) >= 2**63  # no count or number of ours; sums of such cannot be printed
