"""Tiny models with random weights, as Hugging Face folders, for vllm-ascend's engine; made once, nothing is fetched.

Weights are large enough that attention is sharp: a wrong rotation then changes what is generated.
"""

import fcntl
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from tests.ascend_stack import qwen3_vl, vision

VOCABULARY = 512
COMMON = {
    "vocab_size": VOCABULARY, "num_hidden_layers": 2, "intermediate_size": 256, "max_position_embeddings": 256,
    "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.2,
    "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10000.0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
EXPERTS = {
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # transformers' class, and what its configuration adds to COMMON
    "GLM-4": ("Glm4", {"head_dim": 64, "partial_rotary_factor": 0.5}),
    "GLM-4-MoE": ("Glm4Moe", {"head_dim": 128, "partial_rotary_factor": 0.5, "attention_bias": True, **EXPERTS}),
    "Llama-3": ("Llama", {"head_dim": 64, "rope_scaling": LLAMA3}),
    "Phi-3": ("Phi3", {"hidden_size": 384, "num_key_value_heads": 4, "original_max_position_embeddings": 256}),
    "Qwen3": ("Qwen3", {"head_dim": 64}),
    "ERNIE-4.5": ("Ernie4_5", {"head_dim": 128, "num_attention_heads": 64, "num_key_value_heads": 8}),
    "StableLM": ("StableLm", {"hidden_size": 320, "num_key_value_heads": 4, "partial_rotary_factor": 0.25}),
}
FUSED: dict[str, tuple[str, dict[str, Any]]] = {  # in bfloat16, norms and rotation are one operator of vllm-ascend's
    "Qwen3-128": ("Qwen3", {"head_dim": 128}),
    "GLM-4.5": (
        "Glm4Moe",
        {"head_dim": 128, "partial_rotary_factor": 0.5, "attention_bias": True, "use_qk_norm": True, **EXPERTS},
    ),
}
NAMES = [*MODELS, *vision.MODELS]
ROTARY = {  # how a head is rotated, to print
    "GLM-4": "32 of 64, GPT-J", "GLM-4-MoE": "64 of 128", "Llama-3": "64, llama3 scaling", "Phi-3": "96",
    "Qwen3": "64", "ERNIE-4.5": "128, GPT-J, 64 heads", "StableLM": "20 of 80",
    "GLM-4.1V": "64 of 128, GPT-J, three positions", "GLM-OCR": "128, GPT-J, three positions",
}  # fmt: skip


def make(name: str, folder: Path) -> Path:
    """The model's folder under ``folder``, which is made if it does not exist. transformers 5 writes it otherwise."""
    sources = b"".join(Path(file).read_bytes() for file in (__file__, vision.__file__, qwen3_vl.__file__))
    key = hashlib.sha256(sources).hexdigest()[:8]
    path = folder / f"{name}-{key}-{importlib.metadata.version('transformers').partition('.')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # tests of several releases share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "complete").exists():
            _write(name, path)
            (path / "complete").touch()
    return path


def _write(name: str, path: Path) -> None:
    import torch

    if name in vision.MODELS:
        return vision.write(name, path, VOCABULARY)
    torch.manual_seed(0)
    model = qwen3_vl.model(VOCABULARY) if name == qwen3_vl.NAME else _of_words(name)
    if name in (*FUSED, qwen3_vl.NAME):
        for of, parameter in model.named_parameters():
            if of.endswith(("q_norm.weight", "k_norm.weight")):  # else all ones
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model = model.bfloat16().float()  # so that a float32 engine has the same weights as a bfloat16 one
    model.save_pretrained(path)
    if name == qwen3_vl.NAME:
        qwen3_vl.write_processor(path, VOCABULARY)


def _of_words(name: str) -> Any:
    import torch
    import transformers

    kind, more = (MODELS | FUSED)[name]
    config = getattr(transformers, f"{kind}Config")(**COMMON | more)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() == 3:  # experts, which versions initialise differently
            torch.nn.init.normal_(parameter, std=0.2)
    return model
