"""``prepare()`` provides what vllm-ascend's engine needs of a machine with an NPU, before vLLM is imported.

Operators are ``tests/host_cann``'s. Here, each with its limit:

* ``acl``: CANN's own Python binding. vllm-ascend imports ``acl.rt.memcpy`` for its sleep mode: here ``ctypes.memmove``.
* ``torchvision``, ``fla_npu``: ``doubles.py``'s. Videos are not looked at here; images need none of it (``vision.py``).
* ``kernel_warmup`` of 0.28 and later: left out. It compiles kernels for penalties, which no request here asks for, and
  one of them calls a function that the compiler's library declares and does not have.
* ``in_fork``: vLLM starts a Python of its own to look at a model's class, 10 seconds each; here a fork looks.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.ascend_stack import doubles
from tests.host_cann import extension, fixture


def memcpy(to: int, size: int, source: int, count: int, kind: int) -> int:
    """Host and device memory are one."""
    import torch

    torch.npu.synchronize()
    ctypes.memmove(to, source, count)
    return 0


def python_binding() -> None:
    acl, runtime = ModuleType("acl"), ModuleType("acl.rt")
    for module in (acl, runtime):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=module is acl)
        sys.modules[module.__name__] = module
    acl.rt, runtime.memcpy = runtime, memcpy  # type: ignore[attr-defined]


def in_fork(work: Callable[[], Any]) -> Any:
    """Run ``work()`` in a fork of this process. Its result must be picklable, its error becomes a RuntimeError."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if (child := os.fork()) == 0:
        try:
            answer = pickle.dumps(work())
        except BaseException as error:
            import traceback

            traceback.print_exc()
            answer = pickle.dumps(RuntimeError(f"in a fork: {type(error).__name__}: {error}"))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        raise RuntimeError(f"a fork ended with status {status}")
    result = pickle.loads(answer)
    if isinstance(result, RuntimeError):
        raise result
    return result


_lasting = contextlib.ExitStack()
atexit.register(_lasting.close)


def prepare() -> bool:
    """Prepare this process for vllm-ascend's engine. Returns whether ``vllm_ascend_C`` is loaded."""
    python_binding()
    fixture.register()
    from tests.host_cann import hccl  # it imports torch

    hccl.use()
    _lasting.enter_context(doubles.packages())
    loaded = extension.load()
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = in_fork
    return loaded


def preload() -> None:
    """Import what an engine and its worker import, so that forks need not; platform patches first, as it does."""
    import vllm
    from vllm.platforms import current_platform

    assert vllm.LLM is not None  # imported on first use
    current_platform.pre_register_and_update()
    for name in ("vllm.v1.engine.core", "vllm_ascend.worker.worker", "vllm_ascend.worker.model_runner_v1"):
        if importlib.util.find_spec(name):  # 0.11.0's worker has another name
            importlib.import_module(name)
    with contextlib.suppress(ModuleNotFoundError):  # older releases have none
        importlib.import_module("vllm_ascend.model_executor.warmup.kernel_warmup").kernel_warmup = lambda worker: None
    gc.collect()
    gc.freeze()
