"""The command ``rope-patch``: check, verify and time the patch, carry it into every process, and remove it again.

Exit status of every verb: 0 all is well, 1 it is not, 2 it could not be found out (wrong usage, an unreadable folder).
"""

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from rope_patch import __version__
from rope_patch.cli.answer import Answer, CannotAnswer, printable
from rope_patch.reporting import keeper

VERBS = ("doctor", "status", "verify", "bench", "report", "run", "install", "uninstall")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and print its answer; returns the exit status."""
    try:
        return _answered(arguments)
    except KeyboardInterrupt:
        return 130
    finally:
        _close()


def _answered(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except OSError as error:  # the help cannot be written; newer Pythons ignore that
        print(f"rope-patch: {error.strerror}", file=sys.stderr)
        return 2
    try:
        keeper.wanted = False  # a report here would stand beside those of vLLM's processes
        answer: Answer = options.act(options)
        text = json.dumps(answer.data, indent=1) if options.json else answer.text
        _print(text, sys.stdout)
    except CannotAnswer as error:
        with contextlib.suppress(CannotAnswer):  # standard error cannot be written either
            _print(json.dumps({"error": str(error)}) if options.json else f"rope-patch: {error}", sys.stderr)
        return error.exit_status
    return 2 if answer.unknown else 0 if answer.ok else 1


def _print(text: str, stream: TextIO | None) -> None:
    """Print text without control characters, in the stream's encoding. A closed pipe is no error.

    Raises:
        CannotAnswer: the text cannot be written.
    """
    if stream is None:  # it was closed when Python started
        return
    lines = "\n".join(map(printable, text.split("\n")))
    encoding = stream.encoding or "utf-8"
    try:
        print(lines.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        pass
    except OSError as error:
        raise CannotAnswer(f"the answer cannot be written: {error.strerror}") from error


def _close() -> None:
    """Flush what is buffered, and drop it if that fails: Python would print an error when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rope-patch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"rope-patch {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        # The verbs' modules import heavy packages only when they act.
        verb = importlib.import_module(f"{__name__}.{name}")
        about = verb.__doc__ or ""  # python -OO has none
        sub = verbs.add_parser(
            name,
            help=about.partition("\n\n")[0].rstrip("."),
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(act=verb.act, json=False)
        if name != "run":  # its answer is the command's
            sub.add_argument("--json", action="store_true", help="print one JSON object instead")
        verb.add_arguments(sub)
    return parser
