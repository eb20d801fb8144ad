"""The environment of a Ray driver that is switched off: have vLLM's Ray workers know it.

Why: vLLM's RayExecutorV2 (0.23 and newer) gives its workers the driver's variables, but never over one that their node
    has already. A node whose image sets ``VLLM_ASCEND_TRITON_ROPE=1`` would stay patched under a driver's ``0``, and
    the worker cannot see what the driver said.
How: under the kill switch, once vLLM imports that executor, the driver's environment gets a second variable, which no
    node sets: ``VLLM_ASCEND_TRITON_ROPE_DRIVER``. It reaches the workers like every other, and ``settings`` lets it
    win. Nothing of vLLM is replaced. A driver without rope_patch cannot do this: its workers do what their node says.
Upstream: vllm/v1/executor/ray_executor_v2.py (``initialize_worker``), vllm/v1/executor/ray_env_utils.py.
Remove when: the driver's variables win there, as in vLLM's older Ray executor.
"""

import os
from types import ModuleType

from rope_patch.settings import DRIVER

MODULE = "vllm.v1.executor.ray_executor_v2"


def imported(module: ModuleType) -> None:
    """To be called in a process that is switched off, when ``MODULE`` has been imported."""
    os.environ[DRIVER] = "0"
