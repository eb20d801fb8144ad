"""Functions that tests and the demonstration run in a worker of vllm-ascend, through the engine's RPC."""

import gc
import sys
from typing import Any


def embeddings(worker: Any) -> list[Any]:
    """Its language model's rotary embeddings, each module once."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbeddingBase

    model = worker.model_runner.get_model()
    return [m for m in getattr(model, "language_model", model).modules() if isinstance(m, RotaryEmbeddingBase)]


def evidence(worker: Any) -> dict[str, Any]:
    """Who rotates, and rope_patch's counts since ``forget_counts``."""
    found: dict[str, Any] = {"imported": "rope_patch" in sys.modules, "device": str(worker.device)}
    found["platform"] = type(worker.worker).__module__  # in vLLM's wrapper
    found["classes"] = sorted({type(m).__name__ for m in embeddings(worker)})
    functions = [getattr(m._forward_method, "__func__", m._forward_method) for m in embeddings(worker)]
    found["files"] = sorted({function.__code__.co_filename for function in functions})
    if found["imported"]:
        import rope_patch

        status = rope_patch.status()
        found |= {name: status[name] for name in ("mode", "capable", "targets", "calls", "fallbacks", "signatures")}
    return found


def forget_counts(worker: Any) -> None:
    if "rope_patch.reporting.ledger" in sys.modules:
        from rope_patch.reporting import ledger

        ledger.reset()


def switch(worker: Any, on: bool) -> None:
    import rope_patch

    (rope_patch.enable if on else rope_patch.disable)()


def capture_again(worker: Any, on: bool, unseen: bool) -> dict[str, Any]:
    """Switch, and capture all graphs anew, as vllm-ascend does when it sleeps and wakes. ``unseen``: with all checks
    forgotten, and without the run of each size before, so that the kernel meets its calls in a capture first."""
    import torch

    from rope_patch.operators import dispatch

    switch(worker, on)
    if unseen:
        dispatch.forget()
    forget_counts(worker)
    worker.vllm_config.compilation_config.cudagraph_num_of_warmups = 0 if unseen else 1
    graphs = worker.sleep_wakeup_manager.acl_graph
    graphs.sleep()
    gc.collect()
    torch.npu.empty_cache()
    graphs.wakeup()
    return evidence(worker)


def rotate_by(worker: Any, how: str) -> None:
    """``"vllm"``: every rotary embedding by vLLM's own PyTorch code, ``forward_native``; ``"wrongly"``: as before, with
    positions halved; ``"flatly"``: with a token's first position for all three; ``"as before"``."""
    changes = {"wrongly": lambda positions: positions // 2, "flatly": lambda positions: positions[:1].repeat(3, 1)}
    for module in embeddings(worker):
        before = vars(module).setdefault("_before", module._forward_method)
        if change := changes.get(how):
            module._forward_method = lambda positions, *rest, before=before, change=change: before(
                change(positions), *rest
            )
        else:
            module._forward_method = module.forward_native if how == "vllm" else before


def norm_and_rotate_by_vllm(worker: Any) -> None:
    """As ``rotate_by("vllm")``, of a model whose attention calls a fused operator if its rotary embedding is
    vllm-ascend's with three positions: it gets another that is not."""
    from torch import nn

    class Native(nn.Module):
        def __init__(self, embedding: Any) -> None:
            super().__init__()
            self.embedding = embedding

        def forward(self, *arguments: Any) -> Any:
            return self.embedding.forward_native(*arguments)

    for module in list(worker.model_runner.get_model().modules()):
        if hasattr(module, "q_norm") and hasattr(module, "rotary_emb"):
            module.rotary_emb = Native(module.rotary_emb)
