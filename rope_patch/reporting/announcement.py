"""How the first-use check has this process's one INFO line logged, without importing the patching room above it."""

from collections.abc import Callable


def _nothing() -> None:
    """Where nothing is patched, there is nothing to log."""


say: Callable[[], None] = _nothing  # set by ``patching.hooks`` when it starts
