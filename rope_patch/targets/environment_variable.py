"""``vllm.envs.environment_variables``: make our variable known to vLLM, and our state part of its compile cache's key.

Why: vLLM warns of ``VLLM_*`` variables it does not know, and can be told to refuse them. It forwards known ones to Ray
    workers. And its compile cache keys on known variables alone: with torch >= 2.10 it loads an ahead-of-time compiled
    graph before anything is traced, so without a key of ours a process switched off could run a patched graph.
How: one entry. Its value, which only the cache key reads, is the operator's value while nothing is applied, and names
    what is applied, by which version and in which mode, once something is.
Upstream: vllm/envs.py (``compile_factors``), vllm/platforms/interface.py (``validate_environ``).
Remove when: vLLM lets plugins register variables and cache factors.
"""

import os
from collections.abc import Callable
from types import ModuleType

from rope_patch.replace import Undo
from rope_patch.settings import VARIABLE

MODULE = "vllm.envs"


def install(module: ModuleType, applied: Callable[[], list[str]]) -> Undo:
    """Add the entry; ``applied`` names the mode and the targets in place when it is asked, or nothing."""
    from rope_patch import __version__

    def value() -> str | None:
        names = applied()
        return f"rope_patch {__version__}: {', '.join(names)}" if names else os.environ.get(VARIABLE)

    variables = module.environment_variables
    if VARIABLE in variables:  # a vLLM that knows it by itself
        return lambda: None
    variables[VARIABLE] = value

    def undo() -> None:
        if variables.get(VARIABLE) is value:
            del variables[VARIABLE]

    return undo
