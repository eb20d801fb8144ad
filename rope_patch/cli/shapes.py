"""Which rotations a model does: read from its config.json, or the built-in list. JSON only, nothing is executed."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from rope_patch.cli.answer import Fault

LARGEST = 2**20  # bytes of a config.json worth reading
# model_type of configurations whose lanes are paired (0, 1), (2, 3) ...; a configuration does not say it elsewhere.
# As vLLM 0.32's models pass is_neox_style=False to get_rope.
GPT_J_STYLE = {"chatglm", "glm", "glm4", "gptj", "ernie4_5", "ernie4_5_moe", "cohere", "cohere2"}


class Shape(NamedTuple):
    """A rotation as one tensor-parallel rank sees it."""

    name: str
    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int
    is_neox_style: bool = True
    theta: float = 10000.0
    max_position: int = 8192
    scaling: str = "default"
    parameters: dict[str, Any] | None = None  # of the scaling, as the configuration has them


_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# Head sizes, rotary dims, styles and head counts that models in use have; rotary dims that are no powers of two among
# them.
BUILT_IN = (
    Shape("Llama-3.1-8B", 128, 128, 32, 8, True, 500000.0, 131072, "llama3", {"factor": 8.0, **_LLAMA3}),
    Shape("Qwen2.5-7B", 128, 128, 28, 4),
    Shape("Llama-3.2-1B", 64, 64, 32, 8, True, 500000.0, 131072, "llama3", {"factor": 32.0, **_LLAMA3}),
    Shape("GLM-4-9B", 128, 64, 32, 2, False),
    Shape("Phi-3-mini", 96, 96, 32, 32),
    Shape("Phi-4-mini", 128, 96, 24, 8),
    Shape("StableLM-3B", 80, 20, 32, 32),
    Shape("Gemma-2", 256, 256, 16, 8),
    Shape("GLM-5.2 draft", 192, 192, 64, 64),
    Shape("DeepSeek MLA", 64, 64, 128, 1, False),
)


def of_model(place: str, tensor_parallel_size: int = 1) -> list[Shape]:
    """The rotations of the model in folder ``place``, or of that ``config.json``, as each of the ranks sees them.

    Raises:
        Fault: it cannot be read, or says too little.
    """
    config = _loaded(Path(place))
    kind = str(config.get("model_type", "model"))
    config = config.get("text_config") or config.get("llm_config") or config  # of a model that also sees or hears
    try:
        return _shapes(config, kind, tensor_parallel_size)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Fault(f"{place} does not say what its rotary embedding is: {type(error).__name__}: {error}") from error


def _loaded(place: Path) -> dict[str, Any]:
    file = place / "config.json" if place.is_dir() else place
    try:
        if not file.is_file():
            raise Fault(f"{place} is neither a model folder with a config.json nor such a file")
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Fault(f"{file} is larger than {LARGEST} bytes")
        config = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise Fault(f"{file}: {type(error).__name__}: {error}") from error
    if not isinstance(config, dict):
        raise Fault(f"{file} is not a JSON object")
    return config


def _shapes(config: dict[str, Any], kind: str, ranks: int) -> list[Shape]:
    heads = int(_first(config, "num_attention_heads", "n_head"))
    kv_heads = int(_first(config, "num_key_value_heads", "multi_query_group_num", "num_kv_heads", default=heads))
    neox = config.get("model_type", kind) not in GPT_J_STYLE
    common: dict[str, Any] = {
        "max_position": int(_first(config, "max_position_embeddings", "seq_length", default=8192))
    }
    if config.get("qk_rope_head_dim"):  # multi-head latent attention: its rotary lanes alone, one key head for all
        head_size = rotary_dim = int(config["qk_rope_head_dim"])
        kv_heads, neox = 1, False
    else:
        hidden = int(_first(config, "hidden_size", "n_embd", default=0))
        head_size = int(_first(config, "head_dim", "kv_channels", "attention_head_dim", default=hidden // heads))
        rotary_dim = _rotary_dim(config, head_size)
    if heads % ranks:
        raise Fault(f"{heads} heads cannot be divided among {ranks} ranks")
    common |= {"num_heads": heads // ranks, "num_kv_heads": max(1, kv_heads // ranks), "is_neox_style": neox}
    layers = _by_layer(config)
    return [
        Shape(
            name=f"{kind} {name}".strip(),
            head_size=head_size,
            rotary_dim=_rotary_dim(parameters, head_size) if "partial_rotary_factor" in parameters else rotary_dim,
            theta=float(_first(parameters, "rope_theta", default=_first(config, "rope_theta", default=10000.0))),
            scaling=str(_first(parameters, "rope_type", "type", default="default")),
            parameters=parameters,
            **common,
        )
        for name, parameters in layers.items()
    ]


def _first(config: dict[str, Any], *names: str, default: Any = None) -> Any:
    """The first of ``names`` that is set; KeyError if none is, and there is no default."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    if default is None:
        raise KeyError(" or ".join(names))
    return default


def _rotary_dim(config: dict[str, Any], head_size: int) -> int:
    """Given outright, or as a part of the head; vLLM rounds down alike."""
    if config.get("rotary_dim"):
        return int(config["rotary_dim"])
    parameters = config.get("rope_parameters") or {}
    part = _first({**config, **parameters}, "partial_rotary_factor", "rotary_pct", "rotary_emb_fraction", default=1.0)
    if config.get("model_type") == "chatglm":  # half of the lanes, which it does not say
        part = 0.5
    rotary_dim = int(head_size * float(part))
    if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > head_size:
        raise ValueError(f"a rotary dim of {rotary_dim} in a head of {head_size}")
    return rotary_dim


def _by_layer(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rotary parameters, by kind of layer where these differ (as ``rope_parameters`` may be nested)."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = {name: value for name, value in parameters.items() if isinstance(value, dict)}
    return nested or {"": parameters}
