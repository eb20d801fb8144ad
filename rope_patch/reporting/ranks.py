"""Whether the ranks of one engine decided alike. That some of them are patched and others native is never intended.

Ranks that switch together disagree for a moment, since what is known of another rank is as old as its report. Only a
disagreement that lasts is worth a warning.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rope_patch.reporting.form import ReadReport, Report, Status

LASTING = 5.0  # seconds after which a disagreement may be one that lasts: more than two looks at what has changed


class Disagreement(NamedTuple):
    """Of this rank with another process. Equal as long as nothing changes and neither rank is switched."""

    words: str
    other: tuple[str, int, str]  # its host, pid and start
    switched: tuple[int, int]  # how often this rank, and the other, called enable() or disable()


def disagreements(mine: Report, others: Iterable[Report]) -> list[Disagreement]:
    """One for each other rank of this rank's engine that decided otherwise.

    A rank that has not decided yet does not count: it has not imported vLLM's rotary embedding, or not met a signature.
    """
    me = mine["process"]
    if me["engine"] is None:
        return []
    found = []
    for other in others:
        them = other["process"]
        if them["engine"] == me["engine"] and them["rank"] != me["rank"]:
            messages = _of_signatures(mine, other)
            here, there = decision(mine["status"]), decision(other["status"])
            if here and there and here != there:
                messages.insert(
                    0,
                    f"ranks disagree: rank {me['rank']}, this one, is {here}; "
                    f"rank {them['rank']} (process {them['pid']} on {them['host']}) is {there}",
                )
            switched = me["switched"], them["switched"]
            found += [Disagreement(message, _identity(other), switched) for message in messages]
    return found


class Watch:
    """Finds the disagreements that last, from look to look."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, tuple[str, int, str]], _Seen] = {}

    def look(self, mine: Report, others: Sequence[ReadReport], now: float) -> list[str]:
        """The disagreements that began and have lasted by now, each once until the ranks agree again.

        One lasts if it was the same at each look for some seconds, and the other process confirmed it twice meanwhile:
        the touch that comes first may be for what it saw before it was switched.
        """
        heartbeats = {_identity(other): other["heartbeat"] for other in others}
        seen, self._seen = self._seen, {}
        for found in disagreements(mine, others):
            key = found.words, found.other
            one = seen.get(key)
            if one is None or (one.switched != found.switched and not one.told):
                one = _Seen(now, found.switched)
            if not one.told:
                one.heartbeats.add(heartbeats[found.other])
            self._seen[key] = one
        for key, one in seen.items():
            if one.told and key[1] not in heartbeats:  # that the other cannot be read does not mean that it agrees
                self._seen[key] = one
        lasting = [key for key, one in self._seen.items() if not one.told and one.lasts(now)]
        for key in lasting:
            self._seen[key].told = True
        return [words for words, _ in lasting]


@dataclass
class _Seen:
    """What was seen of a disagreement since it began."""

    since: float
    switched: tuple[int, int]
    heartbeats: set[float] = field(default_factory=set)  # of the other's report
    told: bool = False

    def lasts(self, now: float) -> bool:
        return now - self.since >= LASTING and len(self.heartbeats) > 2


def decision(status: Status) -> str | None:
    """What a process decided, in words; None while it has not."""
    if status["mode"] == "off":
        return f"native ({status['reason']})"
    if not status["enabled"]:
        return "native (disabled)"
    if status["capable"] is None:
        return None
    applied = [name for name, state in status["targets"].items() if state.startswith("applied")]
    if applied:
        return f"patched ({', '.join(applied)})"
    return f"native ({status['reason'] if not status['capable'] else '; '.join(_decided(status))})"


def _decided(status: Status) -> list[str]:
    return [f"{name} {state}" for name, state in status["targets"].items() if state != "not imported"]


def _identity(report: Report) -> tuple[str, int, str]:
    who = report["process"]
    return who["host"], who["pid"], who["started"]


def _of_signatures(mine: Report, other: Report) -> list[str]:
    """Warnings about signatures that both ranks met, but only one of them serves with the kernel."""
    theirs = {_without_device(name): entry for name, entry in other["status"]["signatures"].items()}
    messages = []
    for name, entry in mine["status"]["signatures"].items():
        there = theirs.get(_without_device(name))
        if there and there["path"] != entry["path"] and "not run yet" not in (entry["check"], there["check"]):
            messages.append(
                f"ranks disagree about {_without_device(name)}: rank {mine['process']['rank']}, this one, serves it "
                f"by {entry['path']} (check: {entry['check']}), rank {other['process']['rank']} by {there['path']} "
                f"(check: {there['check']})"
            )
    return messages


def _without_device(words: str) -> str:
    return words.rpartition(" ")[0]
