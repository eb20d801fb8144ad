"""Run a command on the host CANN: ``python -m tests.host_cann.run [--chip NAME] COMMAND [ARGUMENT...]``.

``python`` and ``pytest`` mean this interpreter's. Builds first, if needed. The command replaces this process, so its
exit status, signals and terminal are its own.
"""

import argparse
import os
import sys

from . import build, chips, environment


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.host_cann.run", description=__doc__)
    parser.add_argument("--chip", choices=sorted(chips.CHIPS))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if not options.command:
        parser.error("what shall run?")
    try:
        home = build.ensure()
    except build.Missing as missing:
        sys.exit(str(missing))
    own = {"python": [sys.executable], "pytest": [sys.executable, "-m", "pytest"]}
    program, *rest = options.command
    command = [*own.get(program, [program]), *rest]
    os.execvpe(command[0], command, environment.variables(home, options.chip))


if __name__ == "__main__":
    main(sys.argv[1:])
