"""The engine with models whose norms and rotation are one operator of vllm-ascend's: ``python -m ...fused``.

Run on the host CANN. ``tiny.FUSED`` are models of words: in bfloat16 and with graphs, a pass of vllm-ascend's compiler
puts ``vllm::qkv_rmsnorm_rope`` into each layer; in float32 it does not. Prints one JSON object last, by model and way:

===============  ==================================================================================================
``vllm``         float32, eager, rotary embeddings by vLLM's own ``forward_native``: what is right
``float32``      the same engine, patched
``off``          bfloat16 with graphs, ``VLLM_ASCEND_TRITON_ROPE=0``
``patched``      bfloat16 with graphs, patched
===============  ==================================================================================================

Of each: what ``generate.generate`` finds, and what ran, at the engine's ``start`` and then for the requests:
``operators``, the calls of the fused ones, and ``kernels``, how often each ran on the device, replays included.
"""

import contextlib
import functools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.ascend_stack import generate, in_worker, machine, tiny
from tests.host_cann import facts, host_functions

OPERATORS = ("vllm::qkv_rmsnorm_rope",)
SIZES = (50, 40, 30)  # of the prompts: enough tokens for a mean error


def prompts() -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [{"prompt_token_ids": [draw.randrange(5, tiny.VOCABULARY) for _ in range(size)]} for size in SIZES]


@contextlib.contextmanager
def counted() -> Iterator[dict[str, Any]]:
    """What ran inside; filled at the end."""
    import torch

    found: dict[str, Any] = {}
    on_host = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with on_host as profile, facts.counted(torch) as kernels:
        yield found
    names = [event.name() for event in profile.profiler.kineto_results.events()]
    found["operators"] = dict(Counter(name for name in names if name in OPERATORS))
    found["kernels"] = dict(kernels)


def answers(llm: Any) -> dict[str, Any]:
    with counted() as ran:
        found = generate.generate(llm, prompts())
    return found | ran


def run(name: str, dtype: str, way: str) -> dict[str, Any]:
    """Run one engine in this process. Return what came out, by way."""
    began = time.process_time()
    os.environ["VLLM_ASCEND_TRITON_ROPE"] = "0" if way == "off" else "1"
    with counted() as start:
        llm = generate.engine(name, dtype, "eager" if dtype == "float32" else "piecewise")
    start["worker"] = llm.collective_rpc(in_worker.evidence)[0]
    found = {way: answers(llm) | {"start": start}}
    if dtype == "float32":
        llm.collective_rpc(in_worker.rotate_by, args=("vllm",))
        found["vllm"] = answers(llm)
    print(f"{name} {dtype} {way}: {time.process_time() - began:.1f} s of processor time", file=sys.stderr, flush=True)
    return found


def main() -> None:
    os.environ.update(generate.FIXED | generate.CAPTURING)
    host_functions.use()
    machine.prepare()
    machine.preload()
    print(f"vLLM: {time.process_time():.1f} s of processor time", file=sys.stderr, flush=True)
    found: dict[str, dict[str, Any]] = {name: {} for name in tiny.FUSED}
    for name, ways in found.items():
        for dtype, way in (("float32", "float32"), ("bfloat16", "off"), ("bfloat16", "patched")):
            ways |= machine.in_fork(functools.partial(run, name, dtype, way))
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
