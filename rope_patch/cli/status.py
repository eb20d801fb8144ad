"""Show what is patched in the processes that keep a report.

A process keeps one if VLLM_ASCEND_TRITON_ROPE_REPORT=DIR was set when it started. Exit status 1 if a live process met a
fault, if ranks disagree, or if no live process reports.
"""

import argparse
import os
import socket
import time

from rope_patch.cli.answer import Answer, CannotAnswer, short, table, unexpected
from rope_patch.reporting import keeper, ranks, report_folder
from rope_patch.reporting.form import ReadReport
from rope_patch.reporting.report_folder import Unreadable
from rope_patch.settings import REPORT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="DIR", help=f"the reports' folder (default: ${REPORT})")


def act(options: argparse.Namespace) -> Answer:
    """Every report in the folder, live processes first, and what is wrong."""
    if options.folder == "":
        raise unexpected("DIR", "", "the reports' folder")
    folder = options.folder or os.environ.get(REPORT)
    if not folder:
        raise CannotAnswer(f"no folder: name it, or set {REPORT}")
    reports, unreadable = _read(folder)
    disagreements = _disagreements(reports)
    if disagreements:  # ranks that are being switched agree again as soon as both have reported
        time.sleep(2 * keeper.SECONDS)
        before = [found for _, found in disagreements]
        reports, unreadable = _read(folder)
        disagreements = [one for one in _disagreements(reports) if one[1] in before]
    live = [one for one in reports if _life(one) != "gone"]
    # A file of unknown name may be a living process's. What the dead left does not matter to the living.
    problems = [f"cannot read {file.name}: {file.fault}" for file in unreadable if file.lives is not False]
    problems += [f"{_name(one)}: {found.words}" for one, found in disagreements]
    for one in live:
        problems += [
            f"{_name(one)}: native for {words}: {entry['check']}"
            for words, entry in one["status"]["signatures"].items()
            if entry["check"] not in ("passed", "switched off", "not run yet")
        ]
        states = one["status"]["targets"].items()
        problems += [f"{_name(one)}: {target} {state}" for target, state in states if _bad(state)]
    if not live:
        problems.append(f"no live process reports in {folder}")
    data = {
        "folder": folder,
        "processes": [dict(one, life=_life(one)) for one in reports],
        "unreadable": [file._asdict() for file in unreadable],
        "problems": problems,
    }
    return Answer(ok=not problems, data=data, text=_text(reports, unreadable, problems))


def _read(folder: str) -> tuple[list[ReadReport], list[Unreadable]]:
    try:
        reports, unreadable = report_folder.read(folder)
    except OSError as error:
        raise CannotAnswer(f"{short(folder)} cannot be read: {error.strerror}") from error
    except report_folder.NotOurs as error:
        raise CannotAnswer(str(error)) from error
    reports.sort(key=lambda one: (_life(one) == "gone", one["process"]["role"], one["process"]["rank"] or 0))
    return reports, unreadable


def _disagreements(reports: list[ReadReport]) -> list[tuple[ReadReport, ranks.Disagreement]]:
    live = [one for one in reports if _life(one) != "gone"]
    return [(one, found) for one in live for found in ranks.disagreements(one, live)]


def _name(one: ReadReport) -> str:
    return f"{one['process']['role']} {one['process']['pid']}"


def _bad(state: str) -> bool:
    return state.startswith(("failed", "gone", "off, half taken back"))


def _life(one: ReadReport) -> str:
    """``live``, ``live on HOST`` for another host, or ``gone``."""
    if not report_folder.is_live(one):
        return "gone"
    return "live" if one["process"]["host"] == socket.gethostname() else f"live on {one['process']['host']}"


NOTHING_YET = "nothing to patch yet"


def _text(reports: list[ReadReport], unreadable: list[Unreadable], problems: list[str]) -> str:
    rows = []
    for one in reports:
        who, status = one["process"], one["status"]
        rank = "-" if who["rank"] is None else f"{who['rank']} of {who['world_size']}"
        served = sum(status["calls"].values()) - status["calls"].get("traced", 0)
        returned = sum(status["fallbacks"].values())
        state = ranks.decision(status) or NOTHING_YET
        rows.append((who["role"], rank, who["pid"], _life(one), state, served, returned, one["written"]))
    header = ("role", "rank", "process", "state", "rotary embedding", "served", "handed back", "written")
    reasons = {
        f"  handed back {count} times: {reason}"
        for one in reports
        for reason, count in one["status"]["fallbacks"].items()
    }
    lines = [table(header, rows), *sorted(reasons), *_explained(reports)]
    lines += [f"  cannot read {file.name}, of a process that is gone" for file in unreadable if file.lives is False]
    return "\n".join([*lines, *(f"! {problem}" for problem in problems)])


def _explained(reports: list[ReadReport]) -> list[str]:
    """What the rows cannot say in a word, as far as these rows need it."""
    states = {ranks.decision(one["status"]) or NOTHING_YET for one in reports}
    words = []
    if any(state.startswith("patched") for state in states):
        words.append("  served, handed back: in graph mode only what was not replayed; the host does not see replays")
    if NOTHING_YET in states:
        words.append(
            f"  {NOTHING_YET}: vLLM's rotary embedding was not imported there. Workers rotate; others need not"
        )
    if any(one["process"]["role"] == "model inspector" for one in reports):
        words.append(
            "  model inspector: vLLM looks at the model's class in a process that ends at once; this is normal"
        )
    if any(_life(one) == "gone" for one in reports):
        words.append("  gone: that process has ended; its file may be deleted")
    words += [
        f"  {_name(one)} met {one['left_out']} more signatures, for which its file has no room"
        for one in reports
        if one["left_out"]
    ]
    return words
