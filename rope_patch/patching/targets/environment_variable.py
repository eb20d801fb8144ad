"""``vllm.envs.environment_variables``: make our variables known to vLLM, and our state part of its compile cache's key.

Why: vLLM warns of ``VLLM_*`` variables that it does not know, and can be told to refuse them. It forwards known ones to
    Ray workers. Its compile cache's key contains known variables only. With torch >= 2.10 vLLM loads ahead-of-time
    compiled graphs before it traces anything, so without an entry in that key a process that is switched off could run
    a patched graph.
How: one entry for each variable. Only the cache's key reads their values. ``VLLM_ASCEND_TRITON_ROPE`` has the
    operator's value while nothing is applied; once something is applied, its value names the version, the mode and the
    applied targets. The other variables change no graph, so their value is always None.
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
    """Add the entries. ``applied()`` gives the mode and the targets that are applied, or an empty list."""

    def value() -> str | None:
        names = applied()
        return f"rope_patch {VERSION}: {', '.join(names)}" if names else os.environ.get(VARIABLE)

    def nothing() -> None:
        return None

    variables = module.environment_variables
    entries = {VARIABLE: value, REPORT: nothing, CHECK: nothing}
    ours = {name: entry for name, entry in entries.items() if name not in variables}  # vLLM may know it
    variables.update(ours)

    def undo() -> None:
        for name, entry in ours.items():
            if variables.get(name) is entry:
                del variables[name]

    return undo
