"""rope_patch imported late, then disabled and enabled again: ``python -m tests.ascend_stack.orders EVENT``.

``EVENT`` is one of ``harness.EVENTS``, or "model built". Prints one JSON object: what was found at each step.
"""

import json
import sys
from typing import Any

from tests.ascend_stack import harness
from tests.ascend_stack.harness import is_ours as ours
from tests.ascend_stack.models import LLAMA3


def functions(stack: harness.Stack, models: list[Any]) -> list[Any]:
    """Everything that rope_patch may replace, and the methods that live instances call."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    module = stack.rotary_embedding
    places = [getattr(module, "rope_forward_triton", None), module.AscendRotaryEmbedding.forward_oot]
    places += [RotaryEmbedding.forward_oot, *stack.fused.values()]
    return [*places, *(model._forward_method.__func__ for model in models)]


def counts(stack: harness.Stack, models: list[Any]) -> list[int]:
    """Call each model once; return how many calls the kernel served."""
    from rope_patch.reporting import ledger

    torch = stack.torch
    served = []
    for model in models:
        ledger.reset()
        query = torch.randn(3, 4 * 128, generator=torch.Generator().manual_seed(0)).bfloat16()
        stack.rotate(model, torch.arange(3).npu(), query.npu(), query[:, :128].contiguous().npu())
        served.append(sum(ledger.calls().values()))
    return served


def unwrapped(place: Any) -> Any:
    """The original, as ours knows it."""
    return getattr(place, "__wrapped__", None) or place._kernel


def main(event: str) -> None:
    def now(reached: str) -> None:
        if reached == event:
            import rope_patch  # noqa: F401

    stack = harness.start(now)
    models = [stack.build("default", 128, 64), stack.build("llama3", 128, 64, in_fresh_worker=False, **LLAMA3)]
    original = functions(stack, models) if event == "model built" else None
    now("model built")
    import rope_patch

    found: dict[str, Any] = {"targets": rope_patch.status()["targets"], "served": counts(stack, models)}
    patched = functions(stack, models)
    found["ours"] = [ours(function) for function in patched]
    rope_patch.disable()
    if original is None:
        original = [unwrapped(place) if ours(place) else place for place in patched]
    disabled = functions(stack, models)
    found["identical after disable"] = all(a is b for a, b in zip(disabled, original, strict=True))
    found["ours after disable"] = any(map(ours, disabled))
    found["served after disable"] = counts(stack, models)
    rope_patch.enable()
    found["ours after enable"] = [ours(function) for function in functions(stack, models)]
    found["served after enable"] = counts(stack, models)
    rope_patch.disable()
    found["identical in the end"] = all(a is b for a, b in zip(functions(stack, models), original, strict=True))
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
