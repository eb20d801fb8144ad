"""vLLM's Inductor passes, less the one that names operators which a CPU build does not have."""

from typing import Any

from vllm.compilation.passes.pass_manager import PostGradPassManager
from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass


class _NothingToFix(FixFunctionalizationPass):
    def __call__(self, graph: Any) -> None:
        pass


class PassManager(PostGradPassManager):
    """Out-of-tree platforms bring a pass manager of their own; vllm-ascend does."""

    def configure(self, config: Any) -> None:
        super().configure(config)
        self.fix_functionalization = _NothingToFix(config)
