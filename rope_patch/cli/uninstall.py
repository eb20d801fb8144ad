"""Take away what `rope-patch install` wrote, and nothing else.

Running processes keep what they have; restart them. The package itself goes with pip uninstall rope-patch.
"""

import argparse

from rope_patch.cli.answer import Answer, Fault
from rope_patch.cli.install import ours, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Remove the file; harmless where it is not; refuses one that ``install`` did not write."""
    file = place()
    if not ours(file):
        return Answer(True, {"file": str(file), "done": "nothing"}, f"nothing to take away: {file} is not there")
    try:
        file.unlink()
    except OSError as error:
        raise Fault(f"cannot remove {file}: {error.strerror}", 1) from error
    return Answer(True, {"file": str(file), "done": "removed"}, f"removed {file}")
