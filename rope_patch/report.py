"""What happened in this process, for ``rope_patch.status()``."""

import logging
from collections import Counter

# Below vLLM's logger, so that vLLM's handlers and level apply.
logger = logging.getLogger("vllm.rope_patch")

# How often each path served, as the host saw it: a replayed graph runs without the host, and is not counted.
calls: Counter[str] = Counter()
# Why calls went to the original, and how often. In compiled mode the decision is taken, and counted, once per trace.
fallbacks: Counter[str] = Counter()
# Signatures that the first-use check has seen: None if it passed, else what was wrong.
signatures: dict[str, str | None] = {}
# Globals that held a replaced function before we came (``from module import name``): they go on calling the original.
stale: dict[str, list[str]] = {}

_warned: set[str] = set()


def warn_once(message: str) -> None:
    """A WARNING that a person should act on, once per process and text."""
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)
