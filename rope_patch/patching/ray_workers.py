"""Make the kill switch reach Ray workers, on vLLM versions that copy only variables they know to them.

Why: rope_patch, when switched off, touches nothing of vLLM, so vLLM does not know its variables. vLLM 0.11 to 0.16
    (read in its source) do not copy unknown variables to Ray workers, so workers on a node that has rope_patch would be
    patched although the driver is switched off.
How: a vLLM platform has a list of further variables to copy. The names are added to it when vLLM's Ray executor is
    imported, which happens only where Ray is used. No attribute is replaced, and no graph depends on that list.
Upstream: ``additional_env_vars`` in vllm/platforms/interface.py, read by vllm/v1/executor/ray_executor.py (0.11:
    vllm/executor/ray_distributed_executor.py).
Remove when: every vLLM in use copies every ``VLLM_*`` variable.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from rope_patch.patching import import_watch
from rope_patch.reporting import log

EXECUTORS = ("vllm.executor.ray_distributed_executor", "vllm.v1.executor.ray_executor")


def watch(names: Sequence[str]) -> None:
    """Once vLLM imports its Ray executor, have it copy the variables ``names`` to its Ray workers."""

    def around(execute: Any, module: ModuleType) -> None:
        execute(module)
        _forward(module, names)

    sys.meta_path.insert(0, import_watch.Finder(EXECUTORS.__contains__, around))
    for name in EXECUTORS:
        if name in sys.modules:
            _forward(sys.modules[name], names)


def _forward(module: ModuleType, names: Sequence[str]) -> None:
    try:
        listed = module.current_platform.additional_env_vars
        listed.extend(name for name in names if name not in listed)
    except Exception as error:
        log.warn_once(
            f"rope_patch: {', '.join(names)} may not reach Ray workers: {type(error).__name__}: {error}; "
            "set it on every node, before Ray starts"
        )
