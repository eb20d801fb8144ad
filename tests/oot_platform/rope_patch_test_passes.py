"""vLLM's Inductor passes, without the one that names operators which a CPU build does not have."""

from typing import Any

from vllm.compilation.passes.pass_manager import PostGradPassManager
from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass


class _NothingToFix(FixFunctionalizationPass):
    def __call__(self, graph: Any) -> None:
        pass


class PassManager(PostGradPassManager):
    """Out-of-tree platforms such as vllm-ascend bring their own pass manager."""

    def configure(self, config: Any) -> None:
        super().configure(config)
        self.fix_functionalization = _NothingToFix(config)
