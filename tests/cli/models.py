"""Every architecture that vLLM and transformers know: what vLLM's own model code says, and what its config.json does.

    python -m tests.cli.models [EVERY]      # with a number, every so many architectures only

Prints a JSON object a line, and at last of how many both ways say something; exit status 1 if they differ. One process
has imported vLLM and is forked for each model, as the command's process is before it reads a configuration; so an
architecture takes a third of a second, and all of them 70.
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

from rope_patch.cli import config_reading, vllm_model, vllm_model_process, vllm_model_rows
from rope_patch.cli.answer import CannotAnswer
from tests.ascend_stack import doubles

_packages = contextlib.ExitStack()
PART = dict[str, Any]
WARM = {  # with experts, since vLLM makes the group that shares them for such a model only
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 64, "intermediate_size": 64,
    "num_local_experts": 2, "max_position_embeddings": 128, "torch_dtype": "bfloat16",
}  # fmt: skip
# Fields that these models' released configurations have, and transformers' default lacks or leaves empty.
RELEASED: dict[str, PART] = {
    "afmoe": {"score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1},
    "glm4_moe": {"head_dim": 128},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
    "glm4v_moe": {"text_config": {"head_dim": 128, "use_qk_norm": False}},
    "hunyuan_v1_dense": {"head_dim": 128, "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "hunyuan_v1_moe": {"head_dim": 128, "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "hy_v3": {"first_k_dense_replace": 1},
    "lfm2": {"block_dim": 2560, "block_ff_dim": 12288, "block_mlp_init_scale": 1.0},
    "longcat_flash": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "zero_expert_type": "identity"},
    "mimo_v2_flash": {"hybrid_layer_pattern": [0, 1] * 24, "moe_layer_freq": [0] + [1] * 47,
                      "layernorm_epsilon": 1e-5, "swa_num_key_value_heads": 8},
    "minimax_m2": {"rotary_dim": 64, "scoring_func": "sigmoid"},
    "nemotron": {"num_key_value_heads": 8},
    "qwen3_vl_moe": {"text_config": {"norm_topk_prob": True}},
    "qwen4_exp": {"text_config": {"output_gate_type": "sigmoid"}},
    "qwen4_exp_text": {"output_gate_type": "sigmoid"},
}  # fmt: skip


_described = vllm_model_rows.described


def with_transformers(model: Any, config: Any) -> PART:
    """What the model's rotary embeddings are, also where transformers' code rotates, whose style no module says."""
    said = _described(model, config)
    # One for each kind of layer, perhaps: full_attention_inv_freq.
    lanes = {2 * len(one) for name, one in model.named_buffers() if name.endswith("inv_freq")}
    attention = [one for one in model.modules() if hasattr(one, "layer_name") and hasattr(one, "num_kv_heads")]
    if not said["rows"] and said["others"] and len(lanes) == 1:
        known = {(one.head_size, *lanes, one.num_heads, one.num_kv_heads, None) for one in attention}
        said["elsewhere"] = sorted(known)
    return said


def prepared(folder: str) -> None:
    """Be as the command's process is before it reads a configuration, with what all models import."""
    os.environ.update(vllm_model._variables(folder))
    import torch
    from huggingface_hub import constants

    vllm_model_rows.described = with_transformers
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
    return merged(dict(json.loads(json.dumps(config, default=str))), RELEASED.get(kind, {}))


def merged(config: PART, more: PART) -> PART:
    inner = {name: merged(config[name], value) for name, value in more.items() if isinstance(config.get(name), dict)}
    return {**config, **more, **inner}


def compared(every: int, folder: str) -> Iterator[PART]:
    """For each architecture: what each way says, as lists of (head size, rotary dim, heads, key heads, NeoX), which are
    empty where nothing rotates; or why it gives no answer."""
    for kind, architecture in list(architectures().items())[::every]:
        config = default(kind, architecture)
        own = asked(config, folder)
        found: PART = {"kind": kind, "seconds": own["seconds"], "own": own.get("error")}
        if "rows" in own:
            fields = "head_size", "rotary_dim", "num_heads", "num_kv_heads", "is_neox_style"
            rows = {tuple(row[field] for field in fields) for row in own["rows"]}
            found["own"] = sorted(rows) or own.get("elsewhere", own["others"])
        unknown = "elsewhere" in own  # whether it is NeoX
        try:
            ropes = [rope._replace(is_neox_style=None) if unknown else rope for rope in config_reading.ropes(config, 1)]
            of = {(r.head_size, r.rotary_dim, r.num_heads, r.num_kv_heads, r.is_neox_style) for r in ropes}
            found["second"] = sorted(of)
        except CannotAnswer as error:
            found["second"] = [] if "no rotary embedding" in str(error) else str(error)
        yield json.loads(json.dumps(found))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        prepared(place)
        asked_both = []
        for one in compared(int((*sys.argv, "1")[1]), place):
            print(json.dumps(one), flush=True)
            asked_both += [one] if isinstance(one["own"], list) and isinstance(one["second"], list) else []
        differ = [one["kind"] for one in asked_both if one["own"] != one["second"]]
        print(json.dumps({"both answer": len(asked_both), "they differ": differ}))
        sys.exit(bool(differ))
