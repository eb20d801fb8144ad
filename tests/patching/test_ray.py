"""A real Ray worker that builds a vLLM rotary embedding: patched, and unpatched when the driver is switched off."""

import json

import pytest

from tests.conftest import ROOT, Run

pytest.importorskip("vllm", reason="needs the real vLLM")
import ray  # noqa: F401  (where vLLM is installed, a missing ray is an error and not a reason to skip)

# The cluster is started first, so it does not have the kill switch. Then the driver does what vLLM's Ray executor does:
# it passes the variables that it copies to running workers, which load vLLM's plugins and build their model.
CODE = """
import json, os, ray
ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR")
os.environ["VLLM_ASCEND_TRITON_ROPE"] = {value!r}
import rope_patch
from vllm.ray import ray_env
ray_env.DEFAULT_ENV_VAR_PREFIXES = set()  # as in versions that copy only variables they know
from vllm.v1.executor import ray_executor as executor
names = executor.get_env_vars_to_copy(additional_vars=set(executor.current_platform.additional_env_vars))
copied = {{name: os.environ[name] for name in names if name in os.environ and name.startswith("VLLM_ASCEND")}}

@ray.remote
class Worker:
    def work(self, copied):
        import os, sys
        early = "rope_patch" in sys.modules
        os.environ.update(copied)
        from vllm.plugins import load_general_plugins
        load_general_plugins()
        import torch
        from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
        from vllm.model_executor.layers.rotary_embedding import get_rope
        import rope_patch
        from rope_patch.reporting import process
        with set_current_vllm_config(VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))):
            rope = get_rope(64, 128, dtype=torch.float32, rope_parameters={{"rope_type": "default", "rope_theta": 1e4}})
        rope(torch.arange(3), torch.randn(3, 128), torch.randn(3, 128))
        return early, "forward_oot" in vars(type(rope)), rope_patch.status()["calls"], process.this()["role"]

early = {{"env_vars": {{"PYTHONPATH": {path!r}}}}}
workers = [Worker.remote(), Worker.options(runtime_env=early).remote()]
print(json.dumps(ray.get([worker.work.remote(copied) for worker in workers])))
"""
ENVIRONMENT = {"ROPE_PATCH_TEST_PLATFORM": "1", "TRITON_INTERPRET": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


@pytest.mark.parametrize(
    ("value", "patched", "calls"), [("1", True, {"eager": 1}), ("0", False, {})], ids=["on", "off"]
)
def test_a_ray_worker_does_what_the_drivers_variable_says(
    python: Run, value: str, patched: bool, calls: dict[str, int]
) -> None:
    """Whether rope_patch was imported by vLLM's plugin or, earlier, by a sitecustomize on the worker's node."""
    path = f"{ROOT / 'rope_patch' / 'bootstrap'}:{ROOT}"
    printed = python(CODE.format(value=value, path=path), RAY_DEDUP_LOGS="0", **ENVIRONMENT)
    (line,) = (line for line in printed.splitlines() if line.startswith("[["))
    assert json.loads(line) == [[early, patched, calls, "Ray worker"] for early in (False, True)]


# RayExecutorV2's own worker class and its own order of steps: the actor is made, then it gets the driver's variables,
# which fill in what its node does not set. What a worker does after that is cut off: plugins are loaded instead.
CODE_V2 = """
import json, os, ray
ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR")
os.environ["VLLM_ASCEND_TRITON_ROPE"] = "0"
import rope_patch
from vllm.v1.executor import ray_executor_v2 as executor
driver_env_vars = executor.get_driver_env_vars(set())

class Worker:
    def work(self, driver_env_vars):
        import sys
        from types import SimpleNamespace
        from vllm.plugins import load_general_plugins
        from vllm.v1.executor import ray_executor_v2 as executor
        early = "rope_patch" in sys.modules
        executor.WorkerProc.__init__ = lambda self, **arguments: load_general_plugins()
        worker = executor.RayWorkerProc(SimpleNamespace(parallel_config=None), 0, None, False)
        worker.initialize_worker(0, {{}}, "", driver_env_vars)
        import rope_patch
        import vllm.model_executor.layers.rotary_embedding
        status = rope_patch.status()
        return early, status["enabled"], status["targets"]["rotary_embedding"].split(":")[0].split(";")[0]

node = {{"VLLM_ASCEND_TRITON_ROPE": "1"}}
workers = [ray.remote(Worker).options(runtime_env={{"env_vars": node | path}}).remote()
           for path in ({{}}, {{"PYTHONPATH": {path!r}}})]
print(json.dumps(ray.get([worker.work.remote(driver_env_vars) for worker in workers])))
"""


def test_under_the_newer_executor_a_drivers_kill_switch_wins_over_what_the_node_says(python: Run) -> None:
    path = f"{ROOT / 'rope_patch' / 'bootstrap'}:{ROOT}"
    printed = python(CODE_V2.format(path=path), RAY_DEDUP_LOGS="0", **ENVIRONMENT)
    (line,) = (line for line in printed.splitlines() if line.startswith("[["))
    assert json.loads(line) == [[False, False, "native"], [True, False, "not imported"]]
