"""Generate with the real vLLM engine, and print as JSON what came out and what the worker processes did.

    python tests/engine/generate.py --cases llama3:float32 glm4:bfloat16 --mode eager --folder DIR --out FILE

Run in a process of its own: whether rope_patch acts is decided by this process's environment. FILE gets one object per
(model, dtype).
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import models

if os.environ.get("ROPE_PATCH_TEST_IMPORT") == "1":  # as a user's script imports it; spawned children do it again
    import rope_patch  # noqa: F401

PROMPTS = [list(range(5, 17)), [7, 7, 7, 9, 200, 31, 42], [300]]
NEW_TOKENS = 6
COMPILATION = {
    "custom_ops": ["none", "+rotary_embedding"],
    "pass_config": {
        "fuse_norm_quant": False,
        "fuse_act_quant": False,
    },  # they would need operators that a CPU build lacks
}


def worker_status(worker: Any) -> dict[str, Any]:
    """Runs in the worker: what rope_patch did there, and which method its rotary embeddings call."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    state: dict[str, Any] = {"pid": os.getpid(), "imported": "rope_patch" in sys.modules}
    if state["imported"]:
        import rope_patch

        state["status"] = rope_patch.status()
    found = [m for m in worker.model_runner.model.modules() if isinstance(m, RotaryEmbedding)]
    state["classes"] = sorted({type(m).__name__ for m in found})
    code = {m._forward_method.__func__.__code__.co_filename for m in found}
    state["bound_to_us"] = [os.path.join("rope_patch", "patching", "targets") in filename for filename in sorted(code)]
    state["own_forward_oot"] = "forward_oot" in vars(RotaryEmbedding)
    return state


def rotate_wrongly(worker: Any, on: bool) -> None:
    """Runs in the worker: while on, positions are halved before the kernel gets them."""
    from rope_patch.kernels.launch import Launch

    right = getattr(Launch.on, "right", Launch.on)

    def wrong(work: Any, call: Any, *outputs: Any) -> object:
        return right(work, replace(call, positions=call.positions // 2), *outputs)

    wrong.right = right
    Launch.on = wrong if on else right  # type: ignore[assignment]


def forget_counts(worker: Any) -> None:
    """Runs in the worker: set the counts to zero, so that each step has its own."""
    if "rope_patch.reporting.ledger" in sys.modules:
        from rope_patch.reporting import ledger

        ledger.reset()


def switch(worker: Any, on: bool) -> None:
    """Runs in the worker: ``rope_patch.enable()`` or ``disable()``."""
    import rope_patch

    (rope_patch.enable if on else rope_patch.disable)()


def generate(llm: Any) -> dict[str, Any]:
    """Greedy tokens of every prompt, and the log-probabilities of the prompt's tokens and of the new tokens."""
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, logprobs=0, prompt_logprobs=0, detokenize=False
    )
    outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], parameters, use_tqdm=False)
    chosen = []
    for output in outputs:
        steps = [*zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)]
        steps += zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)
        chosen.append([step[token].logprob for token, step in steps])
    return {"tokens": [list(o.outputs[0].token_ids) for o in outputs], "logprobs": chosen}


def start(path: Path, dtype: str, mode: str) -> Any:
    """The engine for one model, with rotary embedding as a custom op in compiled mode too, as on Ascend."""
    from vllm import LLM

    return LLM(
        model=str(path),
        dtype=dtype,
        enforce_eager=mode == "eager",
        compilation_config={} if mode == "eager" else COMPILATION,
        skip_tokenizer_init=True,
        max_model_len=128,
        max_num_seqs=4,
        kv_cache_memory_bytes=64 * 2**20,
        seed=0,
        disable_log_stats=True,
    )


def run(path: Path, dtype: str, mode: str, steps: list[str]) -> dict[str, Any]:
    """Run one engine; return the results of its steps: ``plain``, ``off`` (disabled, then enabled again), ``wrong``."""
    began = time.monotonic()
    llm = start(path, dtype, mode)
    result: dict[str, Any] = {"model": path.name, "dtype": dtype, "mode": mode, "driver_pid": os.getpid()}
    for step in steps:
        change = {"off": (switch, False, True), "wrong": (rotate_wrongly, True, False)}.get(step)
        if change:
            llm.collective_rpc(change[0], args=(change[1],))
        llm.collective_rpc(forget_counts)
        result[step] = generate(llm)
        result[step]["worker"] = llm.collective_rpc(worker_status)[0]
        if change:
            llm.collective_rpc(change[0], args=(change[2],))
    result["kv_blocks"] = llm.llm_engine.vllm_config.cache_config.num_gpu_blocks
    result["seconds"] = round(time.monotonic() - began, 1)
    llm.llm_engine.engine_core.shutdown()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [f"{name}:{dtype}" for name in models.NAMES for dtype in ("float32", "bfloat16")]
    parser.add_argument("--cases", nargs="+", choices=cases, default=["llama3:float32"], metavar="MODEL:DTYPE")
    parser.add_argument("--mode", choices=["eager", "compiled"], default="eager")
    parser.add_argument("--steps", nargs="+", choices=["plain", "off", "wrong"], default=["plain"])
    parser.add_argument("--folder", type=Path, required=True, help="where the tiny models are kept")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # to run the functions above in the workers
    results = []
    for case in options.cases:
        name, dtype = case.split(":")
        result = run(models.make(name, options.folder), dtype, options.mode, options.steps)
        print(f"generated with {name} {dtype} {options.mode}: {result['seconds']} s", file=sys.stderr, flush=True)
        results.append(result)
    options.out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
