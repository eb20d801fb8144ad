"""What is counted in this process, for ``rope_patch.status()``."""

from collections import Counter, defaultdict
from typing import Any

from rope_patch.reporting.status import Signature

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
