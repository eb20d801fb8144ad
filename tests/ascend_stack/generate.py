"""The engine of vllm-ascend on the host CANN: ``python -m tests.ascend_stack.generate GLM-4 Phi-3 --dtype float32``.

Real are vLLM's ``LLM``, its engine core, and vllm-ascend's platform, worker and model runner; ``machine.py`` says what
is not. Prints one JSON object last: ``{model: {way: what came out, and the worker's evidence}}``. The ways, after one
loading of vLLM, each model in forks of its own:

===============  ==================================================================================================
``patched``      rope_patch, loaded by vLLM as a plugin
``vllm``         the same engine, its rotary embeddings by vLLM's own ``forward_native``
``wrongly``      the same engine, patched, with positions halved
``flatly``       the same with a token's first position for all three, of a model with MRoPE
``off``          ``VLLM_ASCEND_TRITON_ROPE=0``
``unpatched``    rope_patch is not among vLLM's plugins, and never imported
===============  ==================================================================================================

With graphs, their mode precedes the way: ``piecewise patched``. With ``--anew`` the first patched engine with full
graphs captures them anew three times: ``disabled``; ``unseen``, when the kernel is on again and meets its calls in a
capture first; and ``seen``. It then sleeps, and is ``woken`` with these graphs.

An engine that ends without us is a result too: ``raised`` says with what.
"""

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.ascend_stack import in_worker, machine, qwen3_vl, sleeping, tiny, vision
from tests.host_cann import host_functions

ROOT = Path(__file__).parents[2]
PROMPTS = [{"prompt_token_ids": tokens} for tokens in (list(range(5, 17)), [7, 7, 7, 9, 200, 31, 42], [300])]
NEW_TOKENS = 6
BLOCKS = 32  # 0.18.0 otherwise fills the memory of an NPU
FIXED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # so that functions can be sent to workers
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CACHE_ROOT": str(ROOT / ".cache" / "engine" / "vllm"),
}
WAYS = ("patched", "off", "unpatched")
WITHIN: tuple[str, ...] = ("vllm", "wrongly")  # ways that run within the patched engine; one more for models with MRoPE
AGAIN = {
    "disabled": (False, False),
    "unseen": (True, True),
    "seen": (True, False),
}  # in_worker.capture_again's arguments

SIZES = [1, 2, 4]  # the numbers of tokens that are captured
MODES: dict[str, dict[str, Any]] = {
    "eager": {"enforce_eager": True},
    # vllm-ascend's compiler, and graphs of the pieces between attention
    "piecewise": {"mode": 3, "cudagraph_mode": "PIECEWISE", "cudagraph_capture_sizes": SIZES},
    "full": {"mode": 3, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": SIZES},
}
CAPTURING = {
    "TASK_QUEUE_ENABLE": "0",  # see host_functions.py
    # torch 2.13 cannot store vllm-ascend's compiled functions, and vLLM would store graphs without them, which fail
    # when they are loaded. With torch 2.10, which vllm-ascend is released for, it does not store such graphs.
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    "VLLM_USE_MEGA_AOT_ARTIFACT": "0",
}


def engine(name: str, dtype: str, mode: str, **more: Any) -> Any:
    from vllm import LLM

    sees = name in (*vision.MODELS, qwen3_vl.NAME)
    if sees:
        (vision if name in vision.MODELS else qwen3_vl).use()
    return LLM(
        model=str(tiny.make(name, ROOT / ".cache" / "engine" / "models")),
        dtype=dtype,
        skip_tokenizer_init=not sees,  # a processor of images wants a tokenizer
        max_model_len=128,
        max_num_seqs=4,
        num_gpu_blocks_override=BLOCKS,
        kv_cache_memory_bytes=64 * 2**20,
        enable_prefix_caching=False,
        seed=0,
        disable_log_stats=True,
        limit_mm_per_prompt={"image": 1, "video": 0},
        **(MODES[mode] if mode == "eager" else {"compilation_config": MODES[mode]}),
        **more,
    )


def generate(llm: Any, prompts: list[dict[str, Any]] = PROMPTS) -> dict[str, Any]:
    """Greedy tokens, and the log-probabilities of the prompts' tokens and of the new tokens."""
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, logprobs=0, prompt_logprobs=0, detokenize=False
    )
    llm.collective_rpc(in_worker.forget_counts)
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    of_prompts = [
        [step[token].logprob for token, step in zip(o.prompt_token_ids[1:], o.prompt_logprobs[1:], strict=True)]
        for o in outputs
    ]
    host_functions.check()
    tokens = [list(o.outputs[0].token_ids) for o in outputs]
    return {"tokens": tokens, "prompt_logprobs": of_prompts, "worker": llm.collective_rpc(in_worker.evidence)[0]}


def plugins_without_us() -> str:
    groups = [importlib.metadata.entry_points(group=f"vllm.{kind}_plugins") for kind in ("platform", "general")]
    return ",".join(sorted({point.name for group in groups for point in group} - {"rope_patch"}))


def run(name: str, dtype: str, way: str, mode: str, sleeps: bool, again: bool) -> dict[str, Any]:
    """Run one engine in this process, which can sleep; and ``again`` what captures its graphs anew, and sleeps. Return
    what came out, by way."""
    began = time.process_time()
    os.environ["VLLM_ASCEND_TRITON_ROPE"] = "0" if way == "off" else "1"
    if way == "unpatched":
        os.environ["VLLM_PLUGINS"] = plugins_without_us()
    llm = engine(name, dtype, mode, **(sleeping.MODE if mode == "full" and sleeps else {}))
    prompts, within_it = PROMPTS, WITHIN
    if name in vision.MODELS:
        prompts, within_it = vision.prompts(tiny.VOCABULARY), (*WITHIN, "flatly")
    at_start = llm.collective_rpc(in_worker.evidence)[0]
    found = {way: generate(llm, prompts) | {"at_start": at_start, "host_functions": dict(host_functions.counts)}}
    for within in within_it if way == "patched" and mode == "eager" else ():
        llm.collective_rpc(in_worker.rotate_by, args=(within,))
        found[within] = generate(llm, prompts)
        llm.collective_rpc(in_worker.rotate_by, args=("as before",))
    for later, arguments in AGAIN.items() if way == "patched" and mode == "full" and again else ():
        at_start = llm.collective_rpc(in_worker.capture_again, args=arguments)[0]
        found[later] = generate(llm, prompts) | {"at_start": at_start}
    if "seen" in found:
        memory = sleeping.sleep_and_wake(llm)
        found["woken"] = generate(llm, prompts) | {"memory": memory}
    seconds = f"{time.process_time() - began:.1f} s of processor time"
    print(f"{name} {dtype} {titled(mode, way)}: {seconds}", file=sys.stderr, flush=True)
    return {titled(mode, way): answer for way, answer in found.items()}


def titled(mode: str, way: str) -> str:
    return way if mode == "eager" else f"{mode} {way}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=tiny.NAMES)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["eager"], help="eager, or some with graphs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--off", nargs="+", choices=tiny.NAMES, default=tiny.NAMES, help="models with the way off")
    parser.add_argument(
        "--in-bfloat16", nargs="+", choices=tiny.NAMES, default=[], metavar="MODEL", help="patched, as 'MODEL bfloat16'"
    )
    parser.add_argument("--anew", action="store_true", help="capture full graphs anew, and sleep")
    options = parser.parse_args()
    os.environ.update(FIXED)
    if "eager" not in options.mode:
        os.environ.update(CAPTURING)
        host_functions.use()
    loaded = machine.prepare()
    machine.preload()
    extension = "with" if loaded else "without"
    print(
        f"vLLM, {extension} vllm_ascend_C: {time.process_time():.1f} s of processor time", file=sys.stderr, flush=True
    )
    results = {}
    for name in options.models:
        ways = [way for way in options.ways if way != "off" or name in options.off]
        results[name] = in_forks(name, options.dtype, options.mode, ways, options.anew)
    for name in options.in_bfloat16:
        try:
            results[f"{name} bfloat16"] = in_forks(name, "bfloat16", ["eager"], ["patched"])
        except RuntimeError as error:  # those in float32 are right or wrong by themselves
            results[f"{name} bfloat16"] = {"raised": str(error)}
    sys.stdout.write("\n" + json.dumps(results) + "\n")


def in_forks(name: str, dtype: str, modes: list[str], ways: list[str], anew: bool = False) -> dict[str, Any]:
    """Run one engine for each mode and way, one after the other; return what came out, by title."""
    found: dict[str, Any] = {}
    for mode, way in itertools.product(modes, ways):
        first = titled(mode, way) not in found
        try:
            answers = machine.in_fork(functools.partial(run, name, dtype, way, mode, anew, first and anew))
            found |= answers if first else {f"{title}, again": answer for title, answer in answers.items()}
        except RuntimeError as error:
            if way == "patched":
                raise
            found[titled(mode, way)] = {"raised": str(error)}
    return found


if __name__ == "__main__":
    main()
