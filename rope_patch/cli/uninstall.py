"""Take away what `rope-patch install` wrote, and nothing else.

Running processes keep what they have; restart them. The package itself goes with pip uninstall rope-patch, after this.
"""

import argparse

from rope_patch.cli.answer import Answer, Fault
from rope_patch.cli.install import content, places


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Remove the files, or what is left of them; refuses, with neither touched, where one is somebody else's."""
    files = places()
    present = [file for file in files if content(file) is not None]
    named = [str(file) for file in files]
    if not present:
        return Answer(True, {"files": named, "done": "nothing"}, f"nothing to take away: no {' and no '.join(named)}")
    for file in reversed(present):
        try:
            file.unlink()
        except OSError as error:
            raise Fault(f"cannot remove {file}: {error.strerror}", 1) from error
    return Answer(True, {"files": named, "done": "removed"}, f"removed {' and '.join(map(str, present))}")
