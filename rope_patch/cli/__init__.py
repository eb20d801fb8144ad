"""The command ``rope-patch``: see it, prove it, carry it into every process, take it out again.

Exit status of every verb: 0 all is well, 1 it is not, 2 it could not be found out (wrong usage, an unreadable folder).
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from rope_patch import __version__
from rope_patch.cli.answer import Answer, Fault

VERBS = ("doctor", "status", "verify", "bench", "run", "install", "uninstall")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and print its answer; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        answer: Answer = options.act(options)
        print(json.dumps(answer.data, indent=1) if options.json else answer.text, flush=True)
    except Fault as fault:
        print(json.dumps({"error": str(fault)}) if options.json else f"rope-patch: {fault}", file=sys.stderr)
        return fault.exit_status
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
    return 0 if answer.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rope-patch", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"rope-patch {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        # Their modules import what is heavy only when they act.
        verb = importlib.import_module(f"{__name__}.{name}")
        about = (verb.__doc__ or "").split("\n\n")
        sub = verbs.add_parser(
            name,
            help=about[0].rstrip("."),
            description=(verb.__doc__ or ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object instead")
        sub.set_defaults(act=verb.act)
        verb.add_arguments(sub)
    return parser
