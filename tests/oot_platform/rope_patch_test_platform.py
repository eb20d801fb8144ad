"""A double of an out-of-tree platform; everything else is vLLM's CPU engine. And a plugin that records what it sees.

vLLM's ``CustomOp.dispatch_forward`` picks ``forward_oot`` on such a platform only, after it has asked for the built-in
ones. So this platform is vLLM's CPU platform to everybody but that one function.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from vllm.platforms.cpu import CpuPlatform


def activate() -> str | None:
    """vLLM's entry point: the platform's class if ``ROPE_PATCH_TEST_PLATFORM=1``, else None."""
    if os.environ.get("ROPE_PATCH_TEST_PLATFORM") == "1":
        return "rope_patch_test_platform.OutOfTreeCpu"
    return None


def witness() -> None:
    """A general plugin, which vLLM runs in each of its processes. It records whether rope_patch is active there."""
    folder = os.environ.get("ROPE_PATCH_TEST_WITNESS")
    if folder:
        hooks = sys.modules.get("rope_patch.patching.hooks")
        armed = hooks is not None and hooks.patch.settings is not None
        note = {"process": multiprocessing.current_process().name, "armed": armed}
        (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(note))


def _asked_by_dispatch() -> bool:
    return sys._getframe(2).f_code.co_name == "dispatch_forward"


class OutOfTreeCpu(CpuPlatform):
    """vLLM's CPU platform, whose custom ops dispatch to ``forward_oot``."""

    def is_cpu(self) -> bool:
        return not _asked_by_dispatch()

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        compilation = vllm_config.compilation_config
        mode, backend = compilation.mode, compilation.backend
        super().check_and_update_config(vllm_config)
        if os.environ.get("ROPE_PATCH_TEST_COMPILE") == "vllm":  # as on Ascend, instead of the CPU platform's mode:
            compilation.mode, compilation.backend = mode, backend  # vLLM's own, with its caches
            compilation.compile_sizes = []  # the CPU platform leaves it unset, which this mode does not expect
        if os.environ.get("ROPE_PATCH_TEST_START_METHOD"):  # the CPU platform demands spawned processes
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = os.environ["ROPE_PATCH_TEST_START_METHOD"]

    def is_out_of_tree(self) -> bool:
        return _asked_by_dispatch()

    @classmethod
    def get_pass_manager_cls(cls) -> str:
        return "rope_patch_test_passes.PassManager"
