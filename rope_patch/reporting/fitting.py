"""A report as text that is never larger than what is read: a process may meet any number of signatures."""

import json
from collections.abc import Iterable
from typing import Any

from rope_patch.reporting.form import Report, SignatureStatus

LARGEST = 2**20  # bytes of a report: some hundred signatures with all their plans
LONGEST = 1000  # characters of a text in a report that would be larger


def text_of(mine: Report) -> bytes:
    """The report as JSON of at most ``LARGEST`` bytes.

    If not everything fits, it keeps the signatures that matter most: those that the kernel does not serve, then those
    with most calls. ``left_out`` counts the others. Then the same for reasons and stale names, which are few.
    """
    whole = json.dumps(mine).encode()
    if len(whole) <= LARGEST:
        return whole
    mine = _clipped(mine)
    status = mine["status"]
    signatures, fallbacks, stale = status["signatures"], status["fallbacks"], status["stale"]
    mine["status"] = status | {"signatures": {}, "fallbacks": {}, "stale": {}}
    room = LARGEST - len(json.dumps(mine)) - len(str(len(signatures)))
    by_count = sorted(fallbacks.items(), key=lambda one: -one[1])
    mine["status"]["fallbacks"], room = _those_that_fit(by_count, room)
    mine["status"]["signatures"], room = _those_that_fit(sorted(signatures.items(), key=_by_weight), room)
    mine["status"]["stale"], room = _those_that_fit(stale.items(), room)
    mine["left_out"] = len(signatures) - len(mine["status"]["signatures"])
    return json.dumps(mine).encode()


def _by_weight(one: tuple[str, SignatureStatus]) -> tuple[bool, int]:
    entry = one[1]
    return entry["path"] == "kernel", -entry["calls"] - sum(entry["fallbacks"].values())


def _those_that_fit(entries: Iterable[tuple[str, Any]], room: int) -> tuple[dict[str, Any], int]:
    """The first of the entries that fit into ``room`` bytes, and the room that is left."""
    kept = {}
    for name, entry in entries:
        size = len(json.dumps({name: entry}))  # its brackets stand for a comma and a space
        if size <= room:
            kept[name] = entry
            room -= size
    return kept, room


def _clipped(value: Any) -> Any:
    """A copy with long texts shortened, those of keys too: a compiler's error may have any length."""
    if isinstance(value, dict):
        return {_clipped(name): _clipped(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [_clipped(inside) for inside in value]
    return f"{value[:LONGEST]} …" if isinstance(value, str) and len(value) > LONGEST else value
