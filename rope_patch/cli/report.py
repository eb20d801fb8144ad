"""Put doctor, status, verify and bench into one file, to attach to a bug report or to bring evidence from a device.

It runs each of them in a process of its own, on this machine's device, and writes FILE.json, and FILE.txt to be read.
Host names, user names, paths and addresses are taken out. What fails is in the report with the reason, and the rest is
run all the same. With --rows nothing is run: a report's file is shown as rows of the README's table. Exit status 0: all
is well; 1: something is wrong here; 2: some part could not be found out.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

from rope_patch.cli import report_page, report_parts, report_rows
from rope_patch.cli.answer import Answer, CannotAnswer, printable, short
from rope_patch.cli.report_parts import Part
from rope_patch.settings import REPORT

FORM = 1
MINUTES = 30  # after which verify or bench is ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder or a config.json")
    parser.add_argument(
        "--tensor-parallel-size", "-tp", type=int, default=1, metavar="N", help="ranks to divide heads by"
    )
    parser.add_argument(
        "--output", "-o", metavar="FILE", help="default: rope_patch-report and the time, in this folder"
    )
    parser.add_argument("--rows", metavar="FILE.json", help="show this report as rows of the README's table")


def act(options: argparse.Namespace) -> Answer:
    """Run all parts, write both files, and say what to do with them."""
    if options.rows is not None:
        data = report_rows.loaded(options.rows)
        return Answer(True, data, report_rows.table_of(data))
    place = options.output or f"rope_patch-report-{time.strftime('%Y%m%d-%H%M%S')}"
    place = place.removesuffix(".json")
    _check(place)
    parts = _parts(options.model, options.tensor_parallel_size)
    _announce(parts, place)
    data = _made(parts, options.model)
    try:
        page = report_page.text(data)
    except Exception as error:  # the data of minutes of checks are worth more than their page
        page = f"The page could not be made ({type(error).__name__}: {error}); the data are in the other file."
    for ending, text in ((".json", json.dumps(data, indent=1)), (".txt", page)):
        try:
            with open(place + ending, "x", encoding="utf-8") as file:
                file.write(f"{text}\n")
        except OSError as error:
            raise CannotAnswer(f"{short(place + ending)} cannot be written: {error.strerror}") from error
    statuses = [part["status"] for part in data["parts"].values() if "skipped" not in part]
    ok, unknown = 1 not in statuses, 1 not in statuses and any(status != 0 for status in statuses)
    return Answer(ok, data, f"{page}\n\n{_what_to_do(place)}", unknown)


def _check(place: str) -> None:
    """Before minutes of checks, that the files can be written."""
    folder = os.path.dirname(os.path.abspath(place))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise CannotAnswer(f"there is no folder for {short(place)} that can be written")
    for ending in (".json", ".txt"):
        if os.path.lexists(place + ending):
            raise CannotAnswer(f"{short(place + ending)} exists already; name another with --output")


def _parts(model: str | None, ranks: int) -> list[Part]:
    shapes = (() if model is None else (model,)) + (("-tp", str(ranks)) if ranks != 1 else ())
    what = "a built-in list of shapes" if model is None else "the rotary embeddings of MODEL"
    folder = os.environ.get(REPORT)
    parts = [Part("doctor", ("--device",), "the environment and the device; imports vLLM, under a minute", 300)]
    if folder:
        parts.append(Part("status", (folder,), "the processes that report; seconds", 60))
    parts += [
        Part("verify", shapes, f"{what} against float64, with rope_patch and without; minutes", 60 * MINUTES),
        Part("bench", shapes, f"{what}, timed; minutes", 60 * MINUTES),
    ]
    return parts


def _announce(parts: list[Part], place: str) -> None:
    lines = [f"{part.verb}: {part.about}, ended after {part.limit // 60} minutes" for part in parts]
    lines += ["Kernels that were never compiled here are compiled meanwhile. Ctrl-C ends a part, not the report."]
    print("\n".join(map(printable, [*lines, f"Writes {place}.json and {place}.txt"])), file=sys.stderr, flush=True)


def _made(parts: list[Part], model: str | None) -> dict[str, Any]:
    """The report. Nothing that names a machine or a person is in it."""
    found: dict[str, Any] = {}
    for number, part in enumerate(parts, 1):
        if any(one.get("why") == report_parts.INTERRUPTED for one in found.values()):
            found[part.verb] = {"status": None, "seconds": 0.0, "why": report_parts.INTERRUPTED}
            continue
        found[part.verb] = report_parts.run(part, f"{number} of {len(parts)}")
    from rope_patch.cli import report_machine, report_status, scrubbing

    hosts: list[str] = []
    if "status" in found:
        hosts = report_status.shorten(found["status"])
    else:
        found["status"] = {"status": None, "seconds": 0.0, "why": f"not run: {REPORT} names no folder", "skipped": True}
    shapes = {one["shape"]["name"] for one in found["verify"].get("answer", {}).get("results", ())}
    places = [place for place in (model, model and os.path.abspath(model)) if place and place not in shapes]
    scrub = scrubbing.Scrub(places, hosts)
    parts_found = {verb: found[verb] for verb in ("doctor", "status", "verify", "bench")}
    written = time.strftime("%Y-%m-%d", time.gmtime())
    machine = report_machine.described()
    return {"form": FORM, "written": written, "machine": machine, "parts": scrub(parts_found)}


def _what_to_do(place: str) -> str:
    return (
        f"Written to {place}.json and {place}.txt. Read the page first: no name, path or address of yours should be in "
        "it. Then attach both files to what you report of a fault, or send them if all is right, since a report from a "
        "device is evidence: to where you got rope_patch from. "
        f"As rows of the README's table: rope-patch report --rows {place}.json"
    )
