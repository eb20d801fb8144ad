"""Every architecture that vLLM and transformers know: what vLLM's own model code says, and what its config.json does.

    python -m tests.cli.models [EVERY]      # with a number, every so many architectures only

Prints a JSON object a line. One process has imported vLLM and is forked for each model, as the command's process is
before it reads a configuration; so an architecture takes a third of a second, and all of them 70.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rope_patch.cli import config_reading, vllm_model, vllm_model_process
from rope_patch.cli.answer import CannotAnswer
from tests.ascend_stack import doubles

_packages = contextlib.ExitStack()
PART = dict[str, Any]
WARM = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 64, "intermediate_size": 64,
    "max_position_embeddings": 128, "torch_dtype": "bfloat16",
}  # fmt: skip


def prepared(folder: str) -> None:
    """Be as the command's process is before it reads a configuration, with what all models import."""
    os.environ.update(vllm_model._variables(folder))
    import torch
    from huggingface_hub import constants

    torch.set_num_threads(1)  # a fork would wait for threads
    constants.HF_HUB_OFFLINE = True  # which it has read from the variables if it was imported before
    vllm_model_process.prepare()
    warm = Path(tempfile.mkdtemp(dir=folder))
    (warm / "config.json").write_text(json.dumps(WARM))
    vllm_model_process.answered(str(warm), 1)  # in this process, so that forks need not import it
    _packages.enter_context(doubles.packages())  # only now: transformers looks whether it is there


def asked(config: PART, folder: str, seconds: int = 40) -> PART:
    """What vLLM's own code says of this configuration, how long it took, and how far memory grew."""
    begin = time.monotonic()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        signal.alarm(seconds)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        vllm_model_process.give_up()
        model = Path(tempfile.mkdtemp(dir=folder))
        (model / "config.json").write_text(json.dumps(vllm_model._without_weights(config)))
        said = vllm_model_process.answered(str(model), 1)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        with os.fdopen(writer, "w") as answer:
            answer.write(json.dumps({**said, "grown_mib": grown // 1024}))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    status = os.waitpid(pid, 0)[1]
    said = json.loads(text) if text else {"error": f"ended by itself: {status}"}
    return {**said, "seconds": time.monotonic() - begin}


def architectures() -> dict[str, str]:
    """The model types whose configuration transformers makes by default, and an architecture that vLLM knows."""
    from transformers.models.auto import modeling_auto
    from vllm.model_executor.models.registry import ModelRegistry

    known = set(ModelRegistry.get_supported_archs())
    found: dict[str, str] = {}
    for table in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM"):
        for kind, names in getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", {}).items():
            for name in names if isinstance(names, (list, tuple)) else (names,):
                if name in known:
                    found.setdefault(kind, name)
    return dict(sorted(found.items()))


def default(kind: str, architecture: str) -> PART:
    """Transformers' default configuration of this model type, as its config.json would be."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config: PART = {**CONFIG_MAPPING[kind]().to_dict(), "architectures": [architecture]}
    return dict(json.loads(json.dumps(config, default=str)))


def compared(every: int, folder: str) -> Iterator[PART]:
    """For each architecture: what each way says, as lists of (head size, rotary dim, heads, key heads, NeoX)."""
    for kind, architecture in list(architectures().items())[::every]:
        config = default(kind, architecture)
        own = asked(config, folder)
        found: PART = {"kind": kind, "seconds": own["seconds"], "own": own.get("error")}
        if "rows" in own:
            fields = "head_size", "rotary_dim", "num_heads", "num_kv_heads", "is_neox_style"
            found["own"] = sorted({tuple(row[field] for field in fields) for row in own["rows"]}) or own["others"]
            found["none"] = not own["rows"]
        try:
            ropes = config_reading.ropes(config, 1)
            found["second"] = sorted(
                {(r.head_size, r.rotary_dim, r.num_heads, r.num_kv_heads, r.is_neox_style) for r in ropes}
            )
        except CannotAnswer as error:
            found["second"] = str(error)
        yield found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        prepared(place)
        for one in compared(int((*sys.argv, "1")[1]), place):
            print(json.dumps(one), flush=True)
