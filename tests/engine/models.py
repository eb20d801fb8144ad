"""Tiny models with random weights, as Hugging Face folders that vLLM loads like any other.

Weights are drawn large enough that attention is sharp: a wrong rotation then changes what is generated, which a model
of small weights would not show.
"""

from pathlib import Path
from typing import Any

NAMES = ("llama3", "glm4", "phi3", "qwen3")  # the last two only by scripts/quickstart.py, where one chooses
VOCABULARY = 512

_COMMON = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.2,
}


def _config(name: str) -> Any:
    import transformers as hf

    if name == "llama3":  # has a scaling class that vllm-ascend leaves to plain PyTorch
        llama3 = {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
        return hf.LlamaConfig(
            **_COMMON, hidden_size=256, num_attention_heads=4, num_key_value_heads=2, rope_parameters=llama3
        )
    if name == "glm4":  # GPT-J style, half of the lanes
        partial = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        return hf.Glm4Config(
            **_COMMON,
            hidden_size=256,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            rope_parameters=partial,
        )
    if name == "phi3":  # a rotary dim that is not a power of two
        return hf.Phi3Config(
            **_COMMON,
            hidden_size=384,
            num_attention_heads=4,
            num_key_value_heads=4,
            original_max_position_embeddings=256,
        )
    if name == "qwen3":  # q and k are normalised, so they are contiguous and rotated in place
        return hf.Qwen3Config(**_COMMON, hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
    raise ValueError(f"unknown model {name!r}, expected one of {NAMES}")


def make(name: str, folder: Path) -> Path:
    """Write the model ``name`` under ``folder`` if it does not exist, and return its path."""
    path = folder / name
    if not (path / "model.safetensors").exists():
        import torch
        import transformers

        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(_config(name), dtype=torch.float32)
        model.save_pretrained(path)
        tokenizer().save_pretrained(path)
    return path


def tokenizer() -> Any:
    """A tokenizer with a word for every token, since a server needs one."""
    import tokenizers
    import transformers

    words = {f"t{number}": number for number in range(VOCABULARY)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t3"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="t0", eos_token="t1", pad_token="t2", unk_token="t3"
    )
