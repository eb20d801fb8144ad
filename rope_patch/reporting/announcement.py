"""This process's one INFO line, for who meets the first use and knows nothing of what is patched."""

from collections.abc import Callable


def _nothing() -> None:
    """Nothing is patched here, so there is nothing to say."""


say: Callable[[], None] = _nothing  # set by ``patching.hooks`` when it starts
