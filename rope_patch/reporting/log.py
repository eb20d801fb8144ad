"""The logger. Nothing is logged per call, and a WARNING only says what a person should act on."""

import logging

# A child of vLLM's logger, so that vLLM's handlers and level apply.
logger = logging.getLogger("vllm.rope_patch")

warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a WARNING, once for each message in a process."""
    if message not in warned:
        warned.add(message)
        logger.warning(message)
