"""``vllm.envs.environment_variables``: make our variables known to vLLM, and our state part of its compile cache's key.

Why: vLLM warns of ``VLLM_*`` variables that it does not know, and refuses to start with them under
    ``--fail-on-environ-validation``. It forwards known ones to Ray workers. Its compile cache's key contains known
    variables only. With torch >= 2.10 vLLM loads ahead-of-time compiled graphs before it traces anything, so without an
    entry in that key a process that is switched off could run a patched graph.
How: one entry for each variable, also when switched off: that is all that rope_patch then does. Only the cache's key
    reads their values. That of ``VLLM_ASCEND_TRITON_ROPE`` names the version, a hash of rope_patch's source (two
    builds of one version may trace different graphs), the mode and the targets that serve; it is None while none
    does, whatever the variable says, since then the graphs are vLLM's own. The other variables change no graph, so
    their value is always None.
Upstream: vllm/envs.py (``compile_factors``, ``validate_environ``), from 0.31 on vllm/platforms/interface.py.
Remove when: vLLM lets plugins register variables and cache factors.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from rope_patch import environment
from rope_patch.environment import VERSION
from rope_patch.settings import NAMES, VARIABLE

MODULE = "vllm.envs"


def source_hash(package: Path) -> str:
    """Of every source file of ``package``, wherever it lies and whenever it was written."""
    digest = hashlib.sha256()
    for folder, inner, files in os.walk(package):
        inner.sort()  # walked in this order
        for name in sorted(file for file in files if file.endswith(".py")):
            path = Path(folder, name)
            digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _this_build() -> str:
    try:
        source = source_hash(Path(environment.__file__).parent)
    except OSError as error:  # compiled files only, say
        source = f"source not read, {error}"
    return f"{VERSION} ({source})"


class KnownVariables:
    """The entries. ``serving()`` gives the mode and the targets that serve, or an empty list."""

    def __init__(self, serving: Callable[[], list[str]]) -> None:
        def value() -> str | None:
            try:
                names = serving()
            except Exception as error:  # vLLM reads this; a key of its own is what does no harm
                names = [f"not known, {type(error).__name__}: {error}"]
            return f"rope_patch {self._build}: {', '.join(names)}" if names else None

        def nothing() -> None:
            return None

        self._entries = dict.fromkeys(NAMES, nothing) | {VARIABLE: value}
        self._variables: dict[str, Callable[[], object]] = {}
        self._build = ""

    def install(self, module: ModuleType) -> None:
        """Add what vLLM does not know; again if the module was executed again."""
        self._variables = module.environment_variables
        self._build = self._build or _this_build()  # now: what lies there later need not be what was imported
        for name, entry in self._entries.items():
            self._variables.setdefault(name, entry)

    def undo(self) -> None:
        """Remove the entries that are ours."""
        for name, entry in self._entries.items():
            if self._variables.get(name) is entry:
                del self._variables[name]
