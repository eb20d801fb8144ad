"""Remove the files that `rope-patch install` wrote, and nothing else.

Running processes stay patched until they are restarted. Run pip uninstall rope-patch after this to remove the package.
"""

import argparse

from rope_patch.cli.answer import Answer, CannotAnswer
from rope_patch.cli.install import content, places


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Remove the files that exist. If `rope-patch install` did not write one of them, refuses and touches neither."""
    files = places()
    present = [file for file in files if content(file) is not None]
    named = [str(file) for file in files]
    if not present:
        return Answer(True, {"files": named, "done": "nothing"}, f"nothing to remove: no {' and no '.join(named)}")
    for file in reversed(present):
        try:
            file.unlink()
        except OSError as error:
            raise CannotAnswer(f"cannot remove {file}: {error.strerror}", 1) from error
    return Answer(True, {"files": named, "done": "removed"}, f"removed {' and '.join(map(str, present))}")
