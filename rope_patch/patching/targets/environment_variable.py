"""``vllm.envs.environment_variables``: make our variables known to vLLM, and our state part of its compile cache's key.

Why: vLLM warns of ``VLLM_*`` variables it does not know, and can be told to refuse them. It forwards known ones to Ray
    workers. And its compile cache keys on known variables alone: with torch >= 2.10 it loads an ahead-of-time compiled
    graph before anything is traced, so without a key of ours a process switched off could run a patched graph.
How: an entry each. The values are read by the cache key alone. That of the first is the operator's value while nothing
    is applied, and names what is applied, by which version and in which mode, once something is. Those of the others,
    which change no graph, are always None.
Upstream: vllm/envs.py (``compile_factors``), vllm/platforms/interface.py (``validate_environ``).
Remove when: vLLM lets plugins register variables and cache factors.
"""

import os
from collections.abc import Callable
from types import ModuleType

from rope_patch.environment import VERSION
from rope_patch.patching.replace import Undo
from rope_patch.settings import CHECK, REPORT, VARIABLE

MODULE = "vllm.envs"


def install(module: ModuleType, applied: Callable[[], list[str]]) -> Undo:
    """Add the entries; ``applied`` names the mode and the targets in place when it is asked, or nothing."""

    def value() -> str | None:
        names = applied()
        return f"rope_patch {VERSION}: {', '.join(names)}" if names else os.environ.get(VARIABLE)

    def nothing() -> None:
        return None

    variables = module.environment_variables
    entries = {VARIABLE: value, REPORT: nothing, CHECK: nothing}
    ours = {name: entry for name, entry in entries.items() if name not in variables}  # unless vLLM knows it by itself
    variables.update(ours)

    def undo() -> None:
        for name, entry in ours.items():
            if variables.get(name) is entry:
                del variables[name]

    return undo
