"""By which definition each class of vLLM makes its table of cosines and sines, and from which of its arguments.

A class that computes its table in a way of its own, and is not named here, is not judged: Fourier's coefficients are
learned, Llama 4's vision model has positions in a picture, and dual chunk attention has five tables.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Arguments = dict[str, Any]


class Part(NamedTuple):
    """A table, or one of several that stand in a row, and what defines it."""

    table: torch.Tensor
    kind: str  # transformers' name, or one of ``table_definitions.OURS``
    parameters: Arguments  # by transformers' names
    length: int | None = None  # of the sequences that it is for, where the definition depends on it


def parts(module: Any, arguments: Arguments) -> list[Part]:
    """What is to be judged of a module that was made with these arguments; nothing if its definition is not known."""
    for cls in type(module).__mro__:
        if cls.__module__.partition(".")[0] != "vllm":  # vllm-ascend's subclasses; they should make the same table
            continue
        if cls.__name__ in _KINDS:
            return _KINDS[cls.__name__](module, arguments)
        if any(name.startswith("_compute_") for name in vars(cls)):
            return []
    return []


def _default(module: Any, arguments: Arguments) -> list[Part]:
    return [Part(module.cos_sin_cache, "default", {})]


def _linear(module: Any, arguments: Arguments) -> list[Part]:
    factors = arguments["scaling_factors"]
    factors = factors if isinstance(factors, (list, tuple)) else [factors]
    lengths = [math.ceil(arguments["max_position_embeddings"] * factor) for factor in factors]
    tables = module.cos_sin_cache.split(lengths)
    return [Part(table, "linear", {"factor": factor}) for table, factor in zip(tables, factors, strict=True)]


def _llama3(module: Any, arguments: Arguments) -> list[Part]:
    parameters = {name: arguments[name] for name in ("low_freq_factor", "high_freq_factor")}
    parameters |= {"factor": arguments["scaling_factor"]}
    parameters |= {"original_max_position_embeddings": arguments["orig_max_position"]}
    return [Part(module.cos_sin_cache, "llama3", parameters)]


_YARN = "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "attention_factor"


def _yarn(module: Any, arguments: Arguments) -> list[Part]:
    parameters = {name: arguments[name] for name in _YARN if arguments.get(name) is not None}
    factor, more = arguments["scaling_factor"], arguments.get("attn_factor", 1)  # vLLM's, up to 0.23
    if more != 1 or not arguments.get("apply_yarn_scaling", True):
        scaled = 0.1 * math.log(factor) + 1 if factor > 1 and arguments.get("apply_yarn_scaling", True) else 1.0
        parameters["attention_factor"] = scaled * more
    parameters |= {"factor": factor, "original_max_position_embeddings": arguments["max_position_embeddings"]}
    return [Part(module.cos_sin_cache, "yarn", parameters)]


def _telechat3(module: Any, arguments: Arguments) -> list[Part]:
    """YaRN, with a smaller factor."""
    factor, (part,) = arguments["scaling_factor"], _yarn(module, arguments)
    mscale = (0.07 * math.log(factor) + 1 if factor > 1 else 1.0) * arguments.get("attn_factor", 1)
    return [part._replace(parameters={**part.parameters, "attention_factor": mscale})]


def _mrope(module: Any, arguments: Arguments) -> list[Part]:
    return (_yarn if arguments.get("scaling_factor") else _default)(module, arguments)


def _dynamic(module: Any, arguments: Arguments) -> list[Part]:
    """vLLM has one table for all lengths, that of the longest sequence."""
    trained = arguments.get("max_trained_positions", arguments["max_position_embeddings"])
    parameters = {"factor": arguments["scaling_factor"], "original_max_position_embeddings": trained}
    return [Part(module.cos_sin_cache, "dynamic", parameters, len(module.cos_sin_cache))]


def _alpha(module: Any, arguments: Arguments) -> list[Part]:
    return [Part(module.cos_sin_cache, "alpha", {"alpha": arguments["scaling_alpha"]})]


def _ntk(module: Any, arguments: Arguments) -> list[Part]:
    parameters = {"factor": arguments["scaling_factor"], "mixed_b": arguments.get("mixed_b")}
    return [Part(module.cos_sin_cache, "ntk", parameters)]


def _proportional(module: Any, arguments: Arguments) -> list[Part]:
    share = arguments["rotary_dim"] / arguments["head_size"]
    return [Part(module.cos_sin_cache, "proportional", {"partial_rotary_factor": share})]


def _longrope(module: Any, arguments: Arguments) -> list[Part]:
    """Two tables: of sequences up to the trained length, and of longer ones."""
    trained = arguments["original_max_position_embeddings"]
    parameters = {name: list(arguments[name]) for name in ("short_factor", "long_factor")}
    parameters |= {"original_max_position_embeddings": trained}
    parameters |= {"factor": arguments["max_position_embeddings"] / trained}
    both = module.long_short_cos_sin_cache
    found = []
    for table, name, length in ((both[:trained], "short", trained), (both[trained:], "long", trained + 1)):
        mscale = arguments.get(f"{name}_mscale")
        more = {} if mscale is None else {"attention_factor": mscale}
        found.append(Part(table, "longrope", {**parameters, **more}, length))
    return found


_KINDS: dict[str, Callable[[Any, Arguments], list[Part]]] = {
    "RotaryEmbedding": _default,
    "MRotaryEmbedding": _mrope,
    "LinearScalingRotaryEmbedding": _linear,
    "Llama3RotaryEmbedding": _llama3,
    "YaRNScalingRotaryEmbedding": _yarn,
    "DeepseekScalingRotaryEmbedding": _yarn,
    "DeepseekV4ScalingRotaryEmbedding": _yarn,
    "TeleChat3RoPEScaledRotaryEmbedding": _telechat3,
    "DynamicNTKScalingRotaryEmbedding": _dynamic,
    "DynamicNTKAlphaRotaryEmbedding": _alpha,
    "NTKScalingRotaryEmbedding": _ntk,
    "Gemma4RotaryEmbedding": _proportional,
    "Phi3LongRoPEScaledRotaryEmbedding": _longrope,
}
