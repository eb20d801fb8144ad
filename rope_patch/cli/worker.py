"""Sets up what a rotary embedding needs of a worker of vLLM, so that ``bench`` can call one.

On vllm-ascend that is: its patches, operators and registered classes, in its worker's order; a forward context; and the
cosines and sines that its model runner prepares once a step (0.13 and newer), or the first layer of a step does (0.11).
No versions are compared: what a release does not have is skipped.
"""

import contextlib
import copy
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.rope_config import Made, RopeConfig

_UTILS = "vllm_ascend.utils"
BEFORE_CONFIG = (
    (_UTILS, "adapt_patch"),
    ("torch_npu.op_plugin.atb._atb_ops", "_register_atb_extensions"),
    ("vllm_ascend.ops", "register_dummy_fusion_op"),
)
AFTER_CONFIG = (
    (_UTILS, "register_ascend_customop"),
    ("vllm_ascend.ascend_config", "init_ascend_config"),
    (_UTILS, "init_ascend_soc_version"),
    (_UTILS, "check_ascend_device_type"),
    ("vllm_ascend.ops.triton.triton_utils", "init_device_properties_triton"),
    ("vllm_ascend.ops.register_custom_ops", ""),
    ("vllm_ascend.ops.rotary_embedding", ""),
)
CONTEXT = {"is_first_layer": True, "is_draft_model": False, "flash_comm_v1_enabled": False, "sp_enabled": False}

# Rows of a table that are enough, of classes whose rows do not depend on how many there are. Llama 4's is 2.5 GiB.
MOST_ROWS = 2**18
SAME_ROWS = {"RotaryEmbedding", "Llama3RotaryEmbedding", "Gemma4RotaryEmbedding", "Ernie4_5_VLRotaryEmbedding"}


class Embedding(NamedTuple):
    """A rotary embedding of vLLM."""

    module: Any
    remark: str | None  # why it is not the class of the shape's scaling
    covered: bool  # whether the setting decides who serves that class


class Worker:
    """Sets this process up as a worker before it builds a model.

    Raises:
        CannotAnswer: vLLM is missing, or cannot be set up.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        try:
            from vllm.config import CompilationConfig, VllmConfig
            from vllm.platforms import current_platform

            self.on_ascend = current_platform.device_type == "npu" and bool(importlib.util.find_spec("vllm_ascend"))
            if self.on_ascend and hasattr(type(current_platform), "pre_register_and_update"):
                current_platform.pre_register_and_update()
            for module, function in BEFORE_CONFIG if self.on_ascend else ():
                _do(module, function, None)
            # With custom operators enabled, as in vllm-ascend.
            self.config = VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))
            for module, function in AFTER_CONFIG if self.on_ascend else ():
                _do(module, function, self.config)
            self.package: Any = importlib.import_module("vllm.model_executor.layers.rotary_embedding")
        except ImportError as error:
            raise CannotAnswer(f"bench needs vLLM, whose code it times: {error}") from error
        except Exception as error:
            raise CannotAnswer(f"vLLM cannot be set up as in a worker: {type(error).__name__}: {error}") from error

    def build(self, rope: RopeConfig, dtype: Any) -> Embedding:
        """The module that a model of vLLM makes. Where that is not known, vLLM's module for the shape's scaling; the
        plain class where that cannot be built or is not covered."""
        if rope.made is not None:
            return Embedding(self._made(rope, rope.made, dtype), None, True)
        if rope.scaling in ("longrope", "su"):  # its class asks for a model's length, and has another cache
            remark = "LongRoPE's class, which the kernel serves, is not built here: timed as the plain class"
            return Embedding(self._rope(rope, dtype, "default", {}), remark, True)
        try:
            module = self._rope(rope, dtype, rope.scaling, rope.parameters or {})
            cache = getattr(module, "cos_sin_cache", None)
            if cache is not None and cache.shape[-1] == getattr(module, "rotary_dim", None) == rope.rotary_dim:
                return Embedding(module, None, True)
            remark, covered = f"{type(module).__name__} is not covered: timed as the plain class", False
        except Exception as error:
            if rope.sections:  # the plain class would not take its positions
                raise
            remark, covered = f"scaling {rope.scaling} cannot be built ({error!r}): timed as the plain class", True
        return Embedding(self._rope(rope, dtype, "default", {}), remark, covered)

    def _rope(self, rope: RopeConfig, dtype: Any, kind: str, parameters: dict[str, Any]) -> Any:
        from vllm.config import set_current_vllm_config

        get_rope = self.package.get_rope
        if rope.sections and rope.sections.order == "alternating":
            return self._ernie(rope, dtype)
        scaling = {name: value for name, value in parameters.items() if name != "type"} | {"rope_type": kind}
        if rope.sections:  # for which "mrope" is an older name of the type
            scaling |= {"rope_type": "default" if kind == "mrope" else kind}
            scaling |= {"mrope_section": list(rope.sections.pairs)}
            scaling |= {"mrope_interleaved": rope.sections.order == "interleaved"}
        if "rope_parameters" in inspect.signature(get_rope).parameters:
            scaling |= {"rope_theta": rope.theta, "partial_rotary_factor": rope.rotary_dim / rope.head_size}
            arguments: dict[str, Any] = {"rope_parameters": scaling}
        else:
            arguments = {"rotary_dim": rope.rotary_dim, "base": rope.theta}
            arguments["rope_scaling"] = None if kind == "default" and not rope.sections else scaling
        arguments |= {"max_position": rope.max_position, "is_neox_style": rope.is_neox_style, "dtype": dtype}
        with set_current_vllm_config(self.config):
            return get_rope(head_size=rope.head_size, **arguments).to(self.device)

    def _made(self, rope: RopeConfig, made: Made, dtype: Any) -> Any:
        """As the model makes it, in this dtype."""
        from vllm.config import set_current_vllm_config

        name, _, cls = made.cls.partition(":")
        arguments = {name: _again(value) for name, value in made.arguments.items()}
        if "dtype" in arguments:
            arguments["dtype"] = dtype
        if made.table and made.table[0] > MOST_ROWS and rope.embedding in SAME_ROWS:
            arguments["max_position_embeddings"] = MOST_ROWS
        config = self.config
        if made.model_length is not None and rope.scaling == "longrope":  # it asks for the length of the model
            config = copy.copy(config)
            config.model_config = SimpleNamespace(max_model_len=made.model_length)
        with set_current_vllm_config(config):
            embedding = getattr(importlib.import_module(name), cls)(**arguments).to(self.device)
        embedding.is_neox_style = rope.is_neox_style  # some models change it afterwards
        return embedding

    def _ernie(self, rope: RopeConfig, dtype: Any) -> Any:
        """ERNIE-4.5-VL's class, which its model makes, and not ``get_rope``."""
        from vllm.config import set_current_vllm_config

        module: Any = importlib.import_module(f"{self.package.__name__}.ernie45_vl_rope")
        assert rope.sections is not None
        numbers = rope.head_size, rope.rotary_dim, rope.max_position, rope.theta, rope.is_neox_style, dtype
        with set_current_vllm_config(self.config):
            embedding = module.Ernie4_5_VLRotaryEmbedding(*numbers, mrope_section=rope.sections.as_configured)
        return embedding.to(self.device)

    @contextlib.contextmanager
    def step(self, module: Any, positions: Any) -> Iterator[None]:
        """The context of the model runner's forward pass with these positions. In it the module may be called."""
        from vllm.config import set_current_vllm_config

        with contextlib.ExitStack() as around:
            around.enter_context(set_current_vllm_config(self.config))
            if self.on_ascend:
                from vllm.forward_context import get_forward_context, set_forward_context

                _lay_out(module, positions if positions.dim() == 1 else positions[0])
                around.enter_context(set_forward_context(None, self.config))
                for name, value in CONTEXT.items():
                    setattr(get_forward_context(), name, value)
            yield


def _again(value: Any) -> Any:
    """An argument as the model had it, before it was JSON: get_rope makes tuples of a configuration's lists."""
    return tuple(value) if isinstance(value, list) else value


def _do(module_name: str, function: str, config: Any) -> None:
    """Import the module, if it exists, and call the function, if it has a name; with the config if it needs one."""
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            return
        raise
    call = getattr(module, function, None) if function else None
    if call is not None:
        needed = [p for p in inspect.signature(call).parameters.values() if p.default is p.empty]
        call(*([config] if needed else []))


def _lay_out(module: Any, positions: Any) -> None:
    """Have vllm-ascend's ``update_cos_sin`` prepare the step's cosines and sines from the module's cache."""
    ascend: Any = importlib.import_module("vllm_ascend.ops.rotary_embedding")
    if not hasattr(ascend, "update_cos_sin"):
        return
    cache = module.cos_sin_cache
    for name in ("_cos", "_sin"):
        setattr(ascend, name, cache.new_empty(1, len(positions), 1, cache.shape[-1]))
    ascend._cos_sin_cache = cache
    ascend.update_cos_sin(positions)
