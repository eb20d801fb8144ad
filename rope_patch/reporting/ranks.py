"""Whether the ranks of one engine decided alike. That some of them are patched and others native is never intended."""

from collections.abc import Iterable

from rope_patch.reporting.status import Report, Status


def disagreements(mine: Report, others: Iterable[Report]) -> list[str]:
    """The warnings for this rank: one for each other rank of its engine that decided otherwise.

    A rank that has not decided yet does not count: it has not imported vLLM's rotary embedding, or not met a signature.
    """
    me = mine["process"]
    if me["engine"] is None:
        return []
    messages = []
    for other in others:
        them = other["process"]
        if them["engine"] == me["engine"] and them["rank"] != me["rank"]:
            here, there = decision(mine["status"]), decision(other["status"])
            if here and there and here != there:
                messages.append(
                    f"ranks disagree: rank {me['rank']}, this one, is {here}; "
                    f"rank {them['rank']} (process {them['pid']} on {them['host']}) is {there}"
                )
            messages += _of_signatures(mine, other)
    return messages


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
