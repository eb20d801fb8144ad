"""What is replaced, one file per thing; each says Why, How, Upstream and Remove when.

A target adapts one call site's convention to ``rotation.rotary``. It knows its upstream module, and no kernels.
"""

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType

from rope_patch.patching.replace import Undo
from rope_patch.settings import Settings


class NotApplicable(Exception):
    """This arrangement of the upstream module is not one that the target knows; it is left native."""


@dataclass(frozen=True)
class Target:
    """Something to replace once ``module`` has been imported, by the file of that name in this package."""

    name: str
    module: str

    def load(self) -> ModuleType:
        """Import the target's file, only now: it brings torch and Triton, which not every process needs."""
        return importlib.import_module(f"{__name__}.{self.name}")

    def install(self, module: ModuleType, settings: Settings) -> Undo:
        """Replace it and return what undoes that; raises ``NotApplicable``, with nothing touched."""
        undo: Undo = self.load().install(module, settings)
        return undo


_ASCEND = "vllm_ascend.ops.rotary_embedding"
TARGETS = (
    Target("rotary_embedding", "vllm.model_executor.layers.rotary_embedding.base"),
    Target("ascend_rope_kernel", _ASCEND),
    Target("ascend_rotary_class", _ASCEND),
)

_specs: dict[str, object] = {}  # of the modules in which something was replaced, as they were then


def remember(module: ModuleType) -> None:
    """Something was replaced in ``module``, as it is now."""
    _specs[module.__name__] = module.__spec__


def executed_again(name: str) -> bool:
    """Whether module ``name`` was executed again since: every import and reload gives it a spec of its own."""
    return name in _specs and name in sys.modules and _specs[name] is not sys.modules[name].__spec__
