"""The kill switch for Ray workers, on vLLM versions that copy to them only variables they know.

Why: switched off, rope_patch touches nothing of vLLM's, so vLLM does not know its variables; and on 0.11 to 0.16 (read)
    a variable that it does not know stays with the driver. Workers on a node that has rope_patch would then be patched.
How: the names go into the list in which a vLLM platform keeps further variables to copy, once vLLM's Ray executor is
    imported; which nobody does who does not use Ray. No attribute is replaced, and nothing that a graph depends on.
Upstream: ``additional_env_vars`` in vllm/platforms/interface.py, read by vllm/v1/executor/ray_executor.py (0.11:
    vllm/executor/ray_distributed_executor.py).
Remove when: nobody runs a vLLM that does not copy every ``VLLM_*``.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from rope_patch.patching import import_watch
from rope_patch.reporting import log

EXECUTORS = ("vllm.executor.ray_distributed_executor", "vllm.v1.executor.ray_executor")


def watch(names: Sequence[str]) -> None:
    """Have vLLM copy the variables ``names`` to its Ray workers, from when it imports its Ray executor."""

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
