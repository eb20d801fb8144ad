"""Whether the ranks of one engine came to the same verdict. Some ranks native and others not is never meant."""

from collections.abc import Iterable

from rope_patch.reporting.status import Report, Status


def disagreements(mine: Report, others: Iterable[Report]) -> list[str]:
    """What to warn of in this rank: one message for every other rank of its engine that decided otherwise.

    Undecided is not otherwise: a rank that has not imported vLLM's rotary embedding, or not met a signature yet, will.
    """
    me = mine["process"]
    if me["engine"] is None:
        return []
    messages = []
    for other in others:
        them = other["process"]
        if them["engine"] == me["engine"] and them["rank"] != me["rank"]:
            here, there = verdict(mine["status"]), verdict(other["status"])
            if here and there and here != there:
                messages.append(
                    f"ranks disagree: rank {me['rank']}, this one, is {here}; "
                    f"rank {them['rank']} (process {them['pid']} on {them['host']}) is {there}"
                )
            messages += _of_signatures(mine, other)
    return messages


def verdict(status: Status) -> str | None:
    """What a process decided, in words; None while it has not."""
    if status["mode"] == "off":
        return f"native ({status['reason']})"
    if not status["enabled"]:
        return "native (disabled)"
    if status["capable"] is None:
        return None
    applied = [name for name, state in status["targets"].items() if state == "applied"]
    if applied:
        return f"patched ({', '.join(applied)})"
    return f"native ({status['reason'] if not status['capable'] else '; '.join(_decided(status))})"


def _decided(status: Status) -> list[str]:
    return [f"{name} {state}" for name, state in status["targets"].items() if state != "not imported"]


def _of_signatures(mine: Report, other: Report) -> list[str]:
    """Signatures that both met, and only one serves with the kernel."""
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
