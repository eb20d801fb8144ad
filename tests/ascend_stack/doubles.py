"""Doubles of what a machine without an NPU lacks above the host CANN, one class or function each.

* ``packages``: torchvision, whose released builds do not load beside a CPU build of torch. vllm-ascend's worker patches
  import vision models, which import it. Those that are built do without: their images need none of it. And ``fla_npu``,
  which is on no registry: from 0.30 on vllm-ascend's layers of linear attention import it. None of those is built.
* ``compiled_extension``: ``vllm_ascend_C`` is linked against all of CANN and does not load. On an Atlas A2 it does, so
  0.11 and 0.13 send fp16 NeoX calls to its ``rotary_embedding``; here they reach that operator's double.
* ``model_config``: what the model runner knows about a model, as far as rotary embedding asks.
"""

import contextlib
import importlib.machinery
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any


class _StandIn:
    """A finder for some packages: their modules exist, and any name imported from them is an empty class."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] in self.packages:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        def missing(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = missing  # type: ignore[method-assign]


@contextlib.contextmanager
def packages() -> Iterator[None]:
    """``import torchvision...`` and ``import fla_npu...`` succeed inside; afterwards their modules are removed again.

    transformers 5 decides by torchvision's presence which image processors it has, so those are imported before.
    """
    import transformers

    if hasattr(transformers, "Qwen2VLImageProcessorPil"):  # transformers 5
        assert transformers.Glm46VImageProcessor is not None
    finder = _StandIn("torchvision", "fla_npu")
    sys.meta_path.append(finder)  # last, so that a real one is found first
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if getattr(module, "__loader__", None) is finder]:
            del sys.modules[name]


def compiled_extension(utils: ModuleType, rotary_embedding: ModuleType) -> None:
    """Report the extension as loaded where rotary embedding asks. The fixture has the double of its operator."""
    if hasattr(rotary_embedding, "_custom_rotary_embedding_enabled"):
        utils._CUSTOM_OP_ENABLED = True


def model_config(head_size: int, rotary_dim: int, max_num_tokens: int) -> SimpleNamespace:
    """Stands in for a VllmConfig: a text model with rotary embedding, without MLA."""
    text = SimpleNamespace(
        partial_rotary_factor=rotary_dim / head_size, to_dict=lambda: {"rope_parameters": {"rope_theta": 10000.0}}
    )
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_batched_tokens=max_num_tokens),
        model_config=SimpleNamespace(
            use_mla=False, hf_config=text, hf_text_config=text, get_head_size=lambda: head_size
        ),
    )
