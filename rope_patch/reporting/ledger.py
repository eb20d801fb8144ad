"""The ledger: counts the calls of each signature that were served or handed back. Totals are sums over signatures.

It counts what the host sees. A replayed graph runs without the host, so its calls are not counted. For a compiled graph
the call is decided, and counted, once per trace.
"""

import os
from collections import Counter
from typing import Any

from rope_patch.reporting.form import SignatureStatus

Signature = tuple[object, ...]
PASSED, SWITCHED_OFF, NOT_RUN_YET = "passed", "switched off", "not run yet"


class Page:
    """The counts of one signature.

    Attributes:
        served: how often the kernel served, by path: in eager mode, in the op's body, traced into a graph, or fused
            with norms in an operator of upstream's. Each count is a list of one number, which a cached launch holds
            and increments without a look-up.
        fallbacks: the reasons why calls went to the original, and how often.
        check: the first-use check's result: PASSED, SWITCHED_OFF, or what was wrong; None before the check.
        plans: the signature's plans, in the order of growing numbers of tokens.
    """

    def __init__(self) -> None:
        self.served: dict[str, list[int]] = {"eager": [0], "op": [0], "traced": [0], "fused": [0]}
        self.fallbacks: Counter[str] = Counter()
        self.check: str | None = None
        self.plans: list[dict[str, Any]] = []


# The key None is for calls without a signature: handed back for their arguments, traced, or without tokens.
_pages: dict[Signature | None, Page] = {}


def page(signature: Signature | None = None) -> Page:
    """The page of a signature. Makes a new one if there is none."""
    found = _pages.get(signature)
    return _pages.setdefault(signature, Page()) if found is None else found


def calls() -> Counter[str]:
    """How often the kernel served on each path, over all signatures."""
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
    """Every signature that was checked or handed back, by its name. Iterates over a copy, as other threads count."""
    seen = {}
    for signature, one in _pages.copy().items():
        if signature is not None and (one.check or one.fallbacks):
            check = one.check or NOT_RUN_YET
            seen[name_of(signature)] = SignatureStatus(
                path="kernel" if check in (PASSED, SWITCHED_OFF) else "native",
                check=check,
                plans=list(one.plans) if one.check else [],
                calls=sum(count for (count,) in one.served.values()),
                fallbacks=dict(one.fallbacks),
            )
    return seen


def name_of(signature: Signature) -> str:
    """A signature's name for people. Its last word is the device."""
    return " ".join(str(part).replace("torch.", "") for part in signature)


def reset() -> None:
    """Set all counts to zero and keep the checks' results. For a forked process, which has its parent's counts."""
    for one in _pages.copy().values():
        one.fallbacks.clear()
        for count in one.served.values():
            count[0] = 0


os.register_at_fork(after_in_child=reset)


def forget() -> None:
    """Forget every page. Called when all signatures will be checked again."""
    _pages.clear()
