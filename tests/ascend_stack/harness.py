"""Sets this process up with one released vllm-ascend, as its worker is before it builds a model.

Real: vLLM, vllm-ascend, torch-npu, Triton-Ascend; the platform is chosen, the patches are applied and the classes are
registered by vllm-ascend's own functions, in its worker's order. Not real is what ``doubles.py`` lists, and the
process groups: the forward context has the attributes that rotary embedding reads, set by hand, since
``set_ascend_forward_context`` asks groups that only HCCL can make. What a version has is looked for, not deduced from
its number.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.ascend_stack import doubles
from tests.host_cann import environment, fixture

PACKAGE = Path(__file__).parents[2] / "rope_patch"
MAX_POSITION = 128
EVENTS = ("vllm imported", "vllm_ascend imported", "custom ops registered")
# Globals in which vllm-ascend keeps the first cache and the last positions that it saw in this process.
COPIES = (
    *("_cos_mla", "_sin_mla", "_cos_cache", "_sin_cache", "_cos_sin_cache"),
    *("_cos", "_sin", "_cos_slice", "_sin_slice"),
)
CONTEXT = {"is_first_layer": True, "is_draft_model": False, "flash_comm_v1_enabled": False, "sp_enabled": False}


def missing() -> str:
    """Why the stack cannot run in this process; empty if it can."""
    for package in ("vllm", "vllm_ascend", "torch_npu"):
        if importlib.util.find_spec(package) is None:
            return f"no {package}: needs an environment of scripts/environments.sh's stack_environment"
    if not environment.active():
        return "needs the host CANN: python -m tests.host_cann.run pytest ..."
    return ""


def _mark() -> pytest.MarkDecorator:
    """Skips the test where it cannot; in our own test script that is an error, since each stage has its stack."""
    why = missing()
    if why and os.environ.get(fixture.REQUIRED):
        raise RuntimeError(why)
    return pytest.mark.skipif(bool(why), reason=why)


needs_stack = _mark()


def is_ours(function: Any) -> bool:
    """Whether rope_patch contains its code. Compares whole paths, as a clone's folder may be called that too."""
    if type(function).__module__.startswith("rope_patch."):  # what stands for a kernel
        return True
    code = getattr(function, "__code__", None)
    return code is not None and PACKAGE in Path(code.co_filename).parents


@dataclass(frozen=True, eq=False)
class Stack:
    """A stack that is set up. ``config`` is the VllmConfig under which embeddings are built and called."""

    version: str
    torch: ModuleType
    rotary_embedding: ModuleType  # vllm_ascend.ops.rotary_embedding
    config: Any

    @property
    def has_triton_path(self) -> bool:
        """Whether ``AscendRotaryEmbedding`` ends in vllm-ascend's Triton kernel (0.15 and later)."""
        return hasattr(self.rotary_embedding, "rope_forward_triton")

    @property
    def takes_no_key(self) -> bool:
        """Whether ``AscendRotaryEmbedding`` takes calls without a key itself (0.28 and later)."""
        forward = self.rotary_embedding.AscendRotaryEmbedding.forward_oot
        return "None" in str(inspect.signature(forward).parameters["key"].annotation)

    @property
    def targets(self) -> list[str]:
        """The targets that are for this release."""
        of_the_class = ["ascend_rope_kernel"] if self.has_triton_path else ["ascend_rotary_class"]
        if self.has_triton_path and not self.takes_no_key:
            of_the_class.append("ascend_without_key")
        return ["rotary_embedding", "mrope", "longrope", *of_the_class, "ascend_mrope", *self.fused]

    @property
    def fused(self) -> dict[str, Any]:
        """The targets that are for kernels which norm and rotate, and what is there now: none before 0.13, one before
        0.16."""
        found = {}
        for name in ("qkv_rmsnorm_rope", "qkv_rmsnorm_mrope"):
            module = sys.modules.get(f"vllm_ascend.ops.triton.linearnorm.split_{name}")
            if module is not None:
                found[name] = getattr(module, f"split_{name}_kernel")
        return found

    def build(
        self,
        kind: str = "default",
        head_size: int = 128,
        rotary_dim: int | None = None,
        max_position: int = MAX_POSITION,
        is_neox_style: bool = True,
        dtype: Any = None,
        base: float = 10000.0,
        in_fresh_worker: bool = True,
        **parameters: Any,
    ) -> Any:
        """A rotary embedding on ``npu:0`` from vLLM's own ``get_rope``.

        ``kind`` is the ``rope_type``; ``parameters`` are the rest of the model's rope parameters. As in a fresh worker,
        vLLM's modules and vllm-ascend's copies of the first cache it saw are forgotten, unless told otherwise.
        """
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers import rotary_embedding as package

        rotary_dim = head_size if rotary_dim is None else rotary_dim
        dtype = self.torch.bfloat16 if dtype is None else dtype
        if in_fresh_worker:
            package._ROPE_DICT.clear()
            for name in COPIES:
                if hasattr(self.rotary_embedding, name):
                    setattr(self.rotary_embedding, name, None)
        scaling = {"rope_type": kind, **parameters}
        if "rope_parameters" in inspect.signature(package.get_rope).parameters:
            scaling |= {"rope_theta": base, "partial_rotary_factor": rotary_dim / head_size}
            arguments: dict[str, Any] = {"rope_parameters": scaling}
        else:
            plain = kind == "default" and not parameters
            arguments = {"rotary_dim": rotary_dim, "base": base, "rope_scaling": None if plain else scaling}
        with set_current_vllm_config(self.config):
            embedding = package.get_rope(
                head_size=head_size, max_position=max_position, is_neox_style=is_neox_style, dtype=dtype, **arguments
            )
        assert embedding.rotary_dim == rotary_dim, f"vLLM made {embedding.rotary_dim} of rotary_dim {rotary_dim}"
        return embedding.to("npu:0")

    @contextlib.contextmanager
    def step(self, embedding: Any, positions: Any, **context: Any) -> Iterator[Any]:
        """The context of the model runner's forward pass, with cos and sin for these positions if the runner makes any
        (0.13 and later). ``context`` overrides ``CONTEXT``, for example ``is_draft_model=True``."""
        from vllm.config import set_current_vllm_config
        from vllm.forward_context import get_forward_context, set_forward_context

        if update := getattr(self.rotary_embedding, "update_cos_sin", None):
            likeness = doubles.model_config(embedding.head_size, embedding.rotary_dim, len(positions))
            for name in ("_cos", "_sin"):
                setattr(self.rotary_embedding, name, None)  # they have another step's number of tokens
            self.rotary_embedding.set_cos_and_sin(likeness, 1, 1, embedding.cos_sin_cache.dtype, "npu:0")
            update(positions)
        with set_current_vllm_config(self.config), set_forward_context(None, self.config):
            forward_context = get_forward_context()
            for name, value in (CONTEXT | context).items():
                setattr(forward_context, name, value)
            yield forward_context

    def rotate(self, embedding: Any, positions: Any, query: Any, key: Any, **context: Any) -> Any:
        """Calls ``embedding(positions, query, key)`` as a model does, in a new step."""
        with self.step(embedding, positions, **context):
            return embedding(positions, query, key)


@functools.cache
def start(now: Callable[[str], None] = lambda event: None) -> Stack:
    """Set up the stack that is installed here, once per process. Needs the host CANN; see ``missing``.

    ``now`` is told, by the names in ``EVENTS``, how far it has come.
    """
    import importlib.metadata

    torch = fixture.initialise()
    from vllm.config import VllmConfig
    from vllm.platforms import current_platform

    now("vllm imported")
    # The argument parser and the engine core do this.
    current_platform.pre_register_and_update()
    # From here on as in NPUWorker.__init__, whose module also wants pyACL.
    from vllm_ascend import utils

    with doubles.packages():
        utils.adapt_patch()
        ops = importlib.import_module("vllm_ascend.ops")
        ops.register_dummy_fusion_op()
        now("vllm_ascend imported")
        config = VllmConfig()
        utils.register_ascend_customop()
    from vllm_ascend.ascend_config import init_ascend_config

    init_ascend_config(config)
    for name in ("init_ascend_soc_version", "check_ascend_device_type"):
        getattr(utils, name, lambda: None)()
    from vllm.triton_utils import HAS_TRITON

    with contextlib.suppress(ModuleNotFoundError if HAS_TRITON else Exception):  # 0.11 has no Triton kernels
        from vllm_ascend.ops.triton.triton_utils import init_device_properties_triton

        init_device_properties_triton()
    rotary_embedding = importlib.import_module("vllm_ascend.ops.rotary_embedding")
    doubles.compiled_extension(utils, rotary_embedding)
    with contextlib.suppress(ModuleNotFoundError):  # the op vllm::npu_rotary_embedding, where there is one
        importlib.import_module("vllm_ascend.ops.register_custom_ops")
    now("custom ops registered")
    return Stack(importlib.metadata.version("vllm-ascend"), torch, rotary_embedding, config)
