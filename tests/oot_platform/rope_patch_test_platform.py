"""A test double for one thing: an out-of-tree platform. Everything else is vLLM's CPU engine.

vLLM's ``CustomOp.dispatch_forward`` picks ``forward_oot`` on such a platform only, after it has asked for the built-in
ones. So this platform is vLLM's CPU platform to everybody but that one function.
"""

import os
import sys

from vllm.platforms.cpu import CpuPlatform


def activate() -> str | None:
    """vLLM's entry point: the platform's class if ``ROPE_PATCH_TEST_PLATFORM=1``, else None."""
    if os.environ.get("ROPE_PATCH_TEST_PLATFORM") == "1":
        return "rope_patch_test_platform.OutOfTreeCpu"
    return None


def _asked_by_dispatch() -> bool:
    return sys._getframe(2).f_code.co_name == "dispatch_forward"


class OutOfTreeCpu(CpuPlatform):
    """vLLM's CPU platform, whose custom ops dispatch to ``forward_oot``."""

    def is_cpu(self) -> bool:
        return not _asked_by_dispatch()

    def is_out_of_tree(self) -> bool:
        return _asked_by_dispatch()
