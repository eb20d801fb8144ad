"""Run a command with rope_patch in it and in every Python process that it starts.

    rope-patch run -- vllm serve MODEL

puts rope_patch's sitecustomize on PYTHONPATH and then executes the command in this process, so output and exit status
are the command's. Interpreters started with -E, -I or -S ignore PYTHONPATH or sitecustomize and are not reached.
"""

import argparse
import os

import rope_patch
from rope_patch.cli.answer import Answer, CannotAnswer, unexpected

BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(rope_patch.__file__)), "bootstrap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] COMMAND ...", help="what to run")


def act(options: argparse.Namespace) -> Answer:
    """Execute the command; never returns."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise CannotAnswer("no command: rope-patch run -- vllm serve MODEL")
    if not command[0]:
        raise unexpected("COMMAND", command[0], "the name of a command")
    path = with_bootstrap(os.environ.get("PYTHONPATH"))
    try:
        os.execvpe(command[0], command, os.environ | {"PYTHONPATH": path})
    except FileNotFoundError as error:
        raise CannotAnswer(f"{command[0]}: not found", 127) from error
    except OSError as error:
        raise CannotAnswer(f"{command[0]}: {error.strerror}", 126) from error


def with_bootstrap(path: str | None) -> str:
    """``path`` with the bootstrap folder once, as the first entry. Empty entries stay: they mean the current folder."""
    entries = path.split(os.pathsep) if path else []
    others = [entry for entry in entries if not entry or os.path.abspath(entry) != BOOTSTRAP]
    return os.pathsep.join([BOOTSTRAP, *others])
