"""Show what is patched in the processes that keep a report.

A process keeps one if VLLM_ASCEND_TRITON_ROPE_REPORT=DIR was set when it started. Exit status 1 if a live process met a
fault, if ranks disagree, or if no live process reports.
"""

import argparse
import os
import socket

from rope_patch.cli.answer import Answer, CannotAnswer, short, table, unexpected
from rope_patch.reporting import ranks, report_folder
from rope_patch.reporting.status import ReadReport
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
    try:
        reports, unreadable = report_folder.read(folder)
    except OSError as error:
        raise CannotAnswer(f"{short(folder)} cannot be read: {error.strerror}") from error
    except report_folder.NotOurs as error:
        raise CannotAnswer(str(error)) from error
    reports.sort(key=lambda one: (_life(one) == "gone", one["process"]["role"], one["process"]["rank"] or 0))
    live = [one for one in reports if _life(one) != "gone"]
    problems = [f"cannot read {words}" for words in unreadable]
    for one in live:
        name = f"{one['process']['role']} {one['process']['pid']}"
        problems += [f"{name}: {message}" for message in ranks.disagreements(one, live)]
        problems += [
            f"{name}: native for {words}: {entry['check']}"
            for words, entry in one["status"]["signatures"].items()
            if entry["check"] not in ("passed", "switched off", "not run yet")
        ]
        problems += [f"{name}: {target} {state}" for target, state in one["status"]["targets"].items() if _bad(state)]
    if not live:
        problems.append(f"no live process reports in {folder}")
    data = {"folder": folder, "processes": [dict(one, life=_life(one)) for one in reports], "problems": problems}
    return Answer(ok=not problems, data=data, text=_text(reports, problems))


def _bad(state: str) -> bool:
    return state.startswith(("failed", "lost", "not taken back", "half taken back"))


def _life(one: ReadReport) -> str:
    """``live``, ``live on HOST`` for another host, or ``gone``."""
    if not report_folder.is_live(one):
        return "gone"
    return "live" if one["process"]["host"] == socket.gethostname() else f"live on {one['process']['host']}"


def _text(reports: list[ReadReport], problems: list[str]) -> str:
    rows = []
    for one in reports:
        who, status = one["process"], one["status"]
        rank = "-" if who["rank"] is None else f"{who['rank']} of {who['world_size']}"
        served = sum(status["calls"].values()) - status["calls"].get("traced", 0)
        returned = sum(status["fallbacks"].values())
        state = ranks.decision(status) or "nothing to patch yet"
        rows.append((who["role"], rank, who["pid"], _life(one), state, served, returned, one["written"]))
    header = ("role", "rank", "process", "state", "rotary embedding", "served", "handed back", "written")
    reasons = {
        f"  handed back {count} times: {reason}"
        for one in reports
        for reason, count in one["status"]["fallbacks"].items()
    }
    lines = [table(header, rows), *sorted(reasons), *(f"! {problem}" for problem in problems)]
    return "\n".join(lines)
