"""The ledger: what became of the calls of each signature, as the host saw it. Totals are its sums.

A replayed graph runs without the host, and is not counted. Of a compiled graph the decision is taken, and counted, once
per trace.
"""

from collections import Counter
from typing import Any

from rope_patch.reporting.status import SignatureStatus

Signature = tuple[object, ...]
PASSED, SWITCHED_OFF, NOT_RUN_YET = "passed", "switched off", "not run yet"


class Page:
    """One signature's calls.

    Attributes:
        served: how often the kernel served: eagerly, in the op's body, or traced into a graph. Each a list of one
            number, so that a cached launch counts without a look-up.
        fallbacks: why calls went to the original, and how often.
        check: PASSED, SWITCHED_OFF, or what was wrong; None before there is a verdict.
        plans: what calls are tiled with, for ever more tokens.
    """

    def __init__(self) -> None:
        self.served: dict[str, list[int]] = {"eager": [0], "op": [0], "traced": [0]}
        self.fallbacks: Counter[str] = Counter()
        self.check: str | None = None
        self.plans: list[dict[str, Any]] = []


# Under None, the calls that never came to have a signature: handed back for their arguments, traced, or without tokens.
_pages: dict[Signature | None, Page] = {}


def page(signature: Signature | None = None) -> Page:
    """The page of a signature, new if there was none."""
    found = _pages.get(signature)
    return _pages.setdefault(signature, Page()) if found is None else found


def calls() -> Counter[str]:
    """How often each path served, over all signatures."""
    total: Counter[str] = Counter()
    for one in _pages.copy().values():
        total.update({path: count for path, (count,) in one.served.items() if count})
    return total


def fallbacks() -> Counter[str]:
    """Why calls went to the original, over all signatures."""
    total: Counter[str] = Counter()
    for one in _pages.copy().values():
        total.update(one.fallbacks.copy())
    return total


def signatures() -> dict[str, SignatureStatus]:
    """Every signature that has a verdict or was handed back, by its words. Copies first: others go on counting."""
    seen = {}
    for signature, one in _pages.copy().items():
        if signature is not None and (one.check or one.fallbacks):
            check = one.check or NOT_RUN_YET
            seen[words(signature)] = SignatureStatus(
                path="kernel" if check in (PASSED, SWITCHED_OFF) else "native",
                check=check,
                plans=list(one.plans) if one.check else [],
                calls=sum(count for (count,) in one.served.values()),
                fallbacks=dict(one.fallbacks),
            )
    return seen


def words(signature: Signature) -> str:
    """A signature as a person reads it; the device is its last word."""
    return " ".join(str(part).replace("torch.", "") for part in signature)


def reset() -> None:
    """Count from zero; verdicts stay. For a forked process, whose parent's calls are not its own."""
    for one in _pages.copy().values():
        one.fallbacks.clear()
        for count in one.served.values():
            count[0] = 0


def forget() -> None:
    """Forget every page, when all signatures are checked anew."""
    _pages.clear()
