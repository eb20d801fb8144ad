"""Remove the file that `rope-patch install` wrote, and nothing else.

Running processes stay patched until they are restarted. Run pip uninstall rope-patch after this to remove the package.
"""

import argparse

from rope_patch.cli.answer import Answer, CannotAnswer
from rope_patch.cli.install import content, place, remains


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Remove the file if it exists. Refuses if `rope-patch install` did not write it."""
    file = place()
    present = ([] if content(file) is None else [file]) + remains(file)
    for one in present:
        try:
            one.unlink(missing_ok=True)
        except OSError as error:
            raise CannotAnswer(f"cannot remove {one}: {error.strerror}", 1) from error
    if not present:
        return Answer(True, {"file": str(file), "done": "nothing"}, f"nothing to remove: no {file}")
    return Answer(True, {"file": str(file), "done": "removed"}, f"removed {' and '.join(map(str, present))}")
