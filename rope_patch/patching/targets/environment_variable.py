"""``vllm.envs.environment_variables``: make our variables known to vLLM, and our state part of its compile cache's key.

Why: vLLM warns of ``VLLM_*`` variables that it does not know, and refuses to start with them under
    ``--fail-on-environ-validation``. It forwards known ones to Ray workers. Its compile cache's key contains known
    variables only. With torch >= 2.10 vLLM loads ahead-of-time compiled graphs before it traces anything, so without an
    entry in that key a process that is switched off could run a patched graph.
How: one entry for each variable, also when switched off: that is all that rope_patch then does. Only the cache's key
    reads their values. That of ``VLLM_ASCEND_TRITON_ROPE`` names the version, the mode and the targets that serve; it
    is None while none does, whatever the variable says, since then the graphs are vLLM's own. The other variables
    change no graph, so their value is always None.
Upstream: vllm/envs.py (``compile_factors``, ``validate_environ``), from 0.31 on vllm/platforms/interface.py.
Remove when: vLLM lets plugins register variables and cache factors.
"""

from collections.abc import Callable
from types import ModuleType

from rope_patch.environment import VERSION
from rope_patch.settings import NAMES, VARIABLE

MODULE = "vllm.envs"


class KnownVariables:
    """The entries. ``serving()`` gives the mode and the targets that serve, or an empty list."""

    def __init__(self, serving: Callable[[], list[str]]) -> None:
        def value() -> str | None:
            try:
                names = serving()
            except Exception as error:  # vLLM reads this; a key of its own is what does no harm
                names = [f"not known, {type(error).__name__}: {error}"]
            return f"rope_patch {VERSION}: {', '.join(names)}" if names else None

        def nothing() -> None:
            return None

        self._entries = dict.fromkeys(NAMES, nothing) | {VARIABLE: value}
        self._variables: dict[str, Callable[[], object]] = {}

    def install(self, module: ModuleType) -> None:
        """Add what vLLM does not know; again if the module was executed again."""
        self._variables = module.environment_variables
        for name, entry in self._entries.items():
            self._variables.setdefault(name, entry)

    def undo(self) -> None:
        """Remove the entries that are ours."""
        for name, entry in self._entries.items():
            if self._variables.get(name) is entry:
                del self._variables[name]
