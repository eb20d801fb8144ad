"""The log: nothing per call, and a WARNING only for what a person should act on."""

import logging

# Below vLLM's logger, so that vLLM's handlers and level apply.
logger = logging.getLogger("vllm.rope_patch")

_warned: set[str] = set()


def warn_once(message: str) -> None:
    """A WARNING that a person should act on, once per process and text."""
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)
