"""What is replaced, one file for each target; each file says Why, How, Upstream and Remove when.

A target calls an operator's contract with the arguments of one call site. It knows its upstream module, but no kernels.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rope_patch.patching.replacement import Replacement
from rope_patch.settings import Settings


class NotApplicable(Exception):
    """The upstream module does not look as the target expects; it is left native."""


def check_parameters(name: str, function: Callable[..., Any] | None, expected: Sequence[str]) -> None:
    """Raise ``NotApplicable`` unless the function has exactly these parameters. The message names those that differ."""
    if function is None:
        raise NotApplicable(f"there is no {name}")
    found = list(inspect.signature(function).parameters)
    if found != list(expected):
        said = [f"{parameter} is not known" for parameter in found if parameter not in expected]
        said += [f"{parameter} is missing" for parameter in expected if parameter not in found]
        raise NotApplicable(f"{name} has other parameters than expected: {', '.join(said) or 'in another order'}")


@dataclass(frozen=True)
class Target:
    """Something to replace once ``module`` has been imported. The file ``name`` in this package does it.

    Targets with the same ``one_of`` are for the same class in different releases: where one is applied, the INFO line
    does not say why others are not, unless they failed.
    """

    name: str
    module: str
    one_of: str = ""

    def load(self) -> ModuleType:
        """Import the target's file. Only now, since it imports torch and Triton, which not every process needs."""
        return importlib.import_module(f"{__name__}.{self.name}")

    def replacement(self, module: ModuleType, settings: Settings) -> Replacement:
        """What replaces it, not yet installed. Raises ``NotApplicable``."""
        made: Replacement = self.load().replacement(module, settings)
        return made


_FUSED = "vllm_ascend.ops.triton.linearnorm"
_VLLM, _ASCEND = "vllm.model_executor.layers.rotary_embedding", "vllm_ascend.ops.rotary_embedding"
TARGETS = (
    Target("rotary_embedding", f"{_VLLM}.base"),
    Target("mrope", f"{_VLLM}.mrope"),
    Target("longrope", f"{_VLLM}.phi3_long_rope_scaled_rope"),
    Target("ascend_rope_kernel", _ASCEND, one_of="AscendRotaryEmbedding"),
    Target("ascend_rotary_class", _ASCEND, one_of="AscendRotaryEmbedding"),
    Target("ascend_without_key", _ASCEND, one_of="AscendRotaryEmbedding"),
    Target("ascend_mrope", _ASCEND),
    Target("qkv_rmsnorm_rope", f"{_FUSED}.split_qkv_rmsnorm_rope"),
    Target("qkv_rmsnorm_mrope", f"{_FUSED}.split_qkv_rmsnorm_mrope"),
)
