"""vllm-ascend's engine with models whose norms and rotation are one operator: ``python -m tests.ascend_stack.fused``.

Run on the host CANN, with names of models; without any, all. In bfloat16 and with graphs, a pass of vllm-ascend's
compiler puts ``vllm::qkv_rmsnorm_rope`` into each layer of ``tiny.FUSED``; in float32 it does not. Qwen3-VL's attention
calls ``vllm::triton_split_qkv_rmsnorm_mrope`` itself, here in eager mode. Prints one JSON object last, by model and
way:

===============  ==================================================================================================
``vllm``         float32, eager, norms and rotation by vLLM's own code: what is right
``float32``      the same engine, patched, before
``off``          bfloat16, ``VLLM_ASCEND_TRITON_ROPE=0``
``patched``      bfloat16, patched
===============  ==================================================================================================

Of each: what ``generate.generate`` finds, and what ran for the requests, and when the engine started (``start``):
``operators``, the calls of the fused ones, and ``kernels``, how often each ran on the device, replays included.
"""

import argparse
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

from tests.ascend_stack import generate, in_worker, machine, qwen3_vl, tiny
from tests.ascend_stack.engine import NEWEST
from tests.host_cann import facts, host_functions

# By model: the operator, and the mode in which its engine runs in bfloat16.
MODELS = dict.fromkeys(tiny.FUSED, ("vllm::qkv_rmsnorm_rope", "piecewise"))
MODELS[qwen3_vl.NAME] = ("vllm::triton_split_qkv_rmsnorm_mrope", "eager")
OPERATORS = {operator for operator, _ in MODELS.values()}
# What the tests run on which release: on all but one, what is not the same there.
ON = {NEWEST: list(MODELS), "0.30.0rc2": ["Qwen3-128"], "0.18.0": ["GLM-4.5"]}
SIZES = (120, 115, 110, 105)  # of the prompts: enough tokens for a mean error, and one step for all


def prompts(name: str) -> list[dict[str, Any]]:
    if name == qwen3_vl.NAME:
        return qwen3_vl.prompts(tiny.VOCABULARY)
    draw = random.Random(0)
    return [{"prompt_token_ids": [draw.randrange(5, tiny.VOCABULARY) for _ in range(size)]} for size in SIZES]


@contextlib.contextmanager
def counted() -> Iterator[dict[str, Any]]:
    """What ran inside; filled at the end."""
    import torch

    found: dict[str, Any] = {}
    calls = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with calls as profile, facts.counted(torch) as kernels:
        yield found
    names = [event.name() for event in profile.profiler.kineto_results.events()]
    found["operators"] = dict(Counter(name for name in names if name in OPERATORS))
    found["kernels"] = dict(kernels)


def answers(llm: Any, name: str) -> dict[str, Any]:
    with counted() as ran:
        found = generate.generate(llm, prompts(name))
    return found | ran


def run(name: str, dtype: str, way: str) -> dict[str, Any]:
    """Run one engine in this process. Return what came out, by way."""
    began = time.process_time()
    os.environ["VLLM_ASCEND_TRITON_ROPE"] = "0" if way == "off" else "1"
    with counted() as start:
        llm = generate.engine(name, dtype, "eager" if dtype == "float32" else MODELS[name][1])
    start["worker"] = llm.collective_rpc(in_worker.evidence)[0]
    found = {way: answers(llm, name) | {"start": start}}
    if dtype == "float32":
        llm.collective_rpc(in_worker.norm_and_rotate_by_vllm)
        found["vllm"] = answers(llm, name)
    print(f"{name} {dtype} {way}: {time.process_time() - began:.1f} s of processor time", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; default all")
    names = parser.parse_args().models or list(MODELS)
    os.environ.update(generate.FIXED | generate.CAPTURING)
    host_functions.use()
    machine.prepare()
    machine.preload()
    print(f"vLLM: {time.process_time():.1f} s of processor time", file=sys.stderr, flush=True)
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, ways in found.items():
        for dtype, way in (("float32", "float32"), ("bfloat16", "off"), ("bfloat16", "patched")):
            ways |= machine.in_fork(functools.partial(run, name, dtype, way))
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
