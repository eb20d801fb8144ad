"""This process's one INFO line: what is replaced and why, or why nothing is.

``patching`` writes it as its targets are decided, and has it logged when all are. The first-use check has it logged
too, for a process that never imports some target's module, and for a fork, which inherits its parent's decisions.
"""

import os

from rope_patch.environment import VERSION
from rope_patch.reporting import log

line = ""  # empty while nothing is decided
_logged_by: int | None = None  # the process that logged it; a fork of it logs its own


def announce() -> None:
    """Log the line, once in a process. Takes no lock: in a forked process, the thread that holds it may not exist."""
    global _logged_by
    if line and _logged_by != os.getpid():
        _logged_by = os.getpid()
        log.logger.info("rope_patch %s: %s", VERSION, line)
