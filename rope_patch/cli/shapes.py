"""Which rotations a model does: read from its config.json, or the built-in list. JSON only, nothing is executed."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from rope_patch.cli.answer import Fault, even, number, short, text, unexpected, whole

Config = dict[str, Any]

LARGEST = 2**20  # bytes of a config.json worth reading
# model_type of configurations whose lanes are paired (0, 1), (2, 3) ...; a configuration does not say it elsewhere.
# As vLLM 0.32's models pass is_neox_style=False to get_rope.
GPT_J_STYLE = {"chatglm", "glm", "glm4", "gptj", "ernie4_5", "ernie4_5_moe", "cohere", "cohere2"}
# What a model may have; far more than any has, and far less than what exhausts a machine's memory.
MOST_HEADS, MOST_LANES, MOST_POSITIONS = 1024, 1024, 2**24
# Scalings that a release of vLLM's get_rope, or its reading of configurations, knows by these names.
SCALINGS = {
    *("default", "linear", "ntk", "dynamic", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "telechat3-yarn"),
    *("longrope", "su", "llama3", "mllama4", "mrope", "bailing_mrope", "xdrope", "openpangu", "proportional"),
}
PARTS = ("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction")


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


def asked(place: str | None, tensor_parallel_size: int) -> list[Shape]:
    """The rotations of the model in ``place``, or, where none is named, those that are built in.

    Raises:
        Fault: as ``of_model``; or there is no model whose heads could be divided.
    """
    whole("--tensor-parallel-size", tensor_parallel_size, 1, MOST_HEADS)
    if place is not None:
        return of_model(place, tensor_parallel_size)
    if tensor_parallel_size > 1:
        raise unexpected("--tensor-parallel-size", tensor_parallel_size, "1 without a MODEL")
    return list(BUILT_IN)


def of_model(place: str, tensor_parallel_size: int = 1) -> list[Shape]:
    """The rotations of the model in folder ``place``, or of that ``config.json``, as each of the ranks sees them.

    Raises:
        Fault: it cannot be read; or a field is missing, or has a value that no model has, and the sentence names it.
    """
    config = _loaded(place)
    kind = _text(config, "model_type", default="model")
    # Of a model that also sees or hears.
    config = _object(config, "text_config") or _object(config, "llm_config") or config
    return _shapes(config, kind, tensor_parallel_size)


def _loaded(place: str) -> Config:
    if not place:
        raise unexpected("MODEL", place, "a model folder or a config.json")
    shown = place if len(place) < 200 else short(place)
    try:
        file = Path(place, "config.json") if Path(place).is_dir() else Path(place)
        if not file.is_file():
            raise Fault(f"{shown} is neither a model folder with a config.json nor such a file")
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Fault(f"{shown} is larger than {LARGEST} bytes, expected a config.json")
        config = json.loads(content)
    except OSError as error:
        raise Fault(f"{shown} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Fault(f"{shown} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise Fault(f"{shown} is {short(config)}, expected a JSON object")
    return config


def _shapes(config: Config, kind: str, ranks: int) -> list[Shape]:
    heads = _whole(config, "num_attention_heads", "n_head", most=MOST_HEADS)
    kv_names = "num_key_value_heads", "multi_query_group_num", "num_kv_heads"
    kv_heads = _whole(config, *kv_names, most=MOST_HEADS, default=heads)
    neox = _text(config, "model_type", default=kind) not in GPT_J_STYLE
    positions = _whole(config, "max_position_embeddings", "seq_length", most=MOST_POSITIONS, default=8192)
    latent = config.get("qk_rope_head_dim") not in (None, 0)  # 0: of a model that could have it, and has not
    if latent:  # multi-head latent attention: its rotary lanes alone, one key head for all
        head_size = even("qk_rope_head_dim", config["qk_rope_head_dim"], MOST_LANES)
        kv_heads, neox = 1, False
    else:
        head_size = _head_size(config, heads)
    if heads % ranks:
        raise Fault(f"--tensor-parallel-size is {ranks}: {heads} heads cannot be divided among {ranks} ranks")
    if kv_heads % ranks and ranks % kv_heads:
        raise Fault(f"--tensor-parallel-size is {ranks}: {kv_heads} key heads cannot be shared by {ranks} ranks")
    shapes = []
    for name, parameters in _by_layer(config).items():
        shape = Shape(
            name=f"{kind} {name}".strip(),
            head_size=head_size,
            rotary_dim=_rotary_dim({} if latent else config, parameters, head_size),
            num_heads=heads // ranks,
            num_kv_heads=max(1, kv_heads // ranks),
            is_neox_style=neox,
            # Below 1 lanes would turn faster and faster; above, float64 still tells the angles.
            theta=number("rope_theta", _theta(parameters, config), 1, 1e15),
            max_position=positions,
            scaling=_scaling(parameters),
            parameters=parameters,
        )
        shapes.append(shape)
    return shapes


def _head_size(config: Config, heads: int) -> int:
    name, value = _field(config, "head_dim", "kv_channels", "attention_head_dim")
    if value is not None:
        return whole(name, value, 2, MOST_LANES)
    return _whole(config, "hidden_size", "n_embd", least=2 * heads, most=MOST_LANES * heads) // heads


def _rotary_dim(config: Config, parameters: Config, head_size: int) -> int:
    """Given outright, or as a part of the head, by kind of layer or for all; vLLM rounds down alike."""
    if parameters.get(PARTS[0]) is None and config.get("rotary_dim") is not None:
        return even("rotary_dim", config["rotary_dim"], head_size)
    name, part = _field({**config, **parameters}, *PARTS)
    if config.get("model_type") == "chatglm":  # half of the lanes, which it does not say
        part = 0.5
    part = 1.0 if part is None else number(name, part, 0, 1)
    rotary_dim = int(head_size * part)
    if rotary_dim < 2 or rotary_dim % 2:
        raise unexpected(name, part, f"a part of {head_size} lanes that is an even number from 2, and not {rotary_dim}")
    return rotary_dim


def _theta(*places: Config) -> object:
    return next((place["rope_theta"] for place in places if place.get("rope_theta") is not None), 10000.0)


def _scaling(parameters: Config) -> str:
    name, kind = _field(parameters, "rope_type", "type")
    kind = "default" if kind is None else text(name, kind)
    if kind not in SCALINGS:
        raise unexpected(name, kind, f"one of {', '.join(sorted(SCALINGS))}")
    # vLLM lays out so many more, or so many, positions.
    if parameters.get("factor") is not None:
        number("factor", parameters["factor"], 0, 4096)
    _whole(parameters, "original_max_position_embeddings", most=MOST_POSITIONS, default=8192)
    return kind


def _by_layer(config: Config) -> dict[str, Config]:
    """The rotary parameters, by kind of layer where these differ (as ``rope_parameters`` may be nested)."""
    parameters = _object(config, "rope_parameters") or _object(config, "rope_scaling") or {}
    nested = {name: value for name, value in parameters.items() if isinstance(value, dict)}
    return nested or {"": parameters}


def _field(config: Config, *names: str) -> tuple[str, Any]:
    """The first of ``names`` that is set, and its value; all of them, and None, if none is."""
    return next(((name, config[name]) for name in names if config.get(name) is not None), (" or ".join(names), None))


def _whole(config: Config, *names: str, least: int = 1, most: int, default: int | None = None) -> int:
    name, value = _field(config, *names)
    return default if value is None and default is not None else whole(name, value, least, most)


def _text(config: Config, *names: str, default: str) -> str:
    name, value = _field(config, *names)
    return default if value is None else text(name, value)


def _object(config: Config, name: str) -> Config | None:
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise unexpected(name, value, "a JSON object")
    return value
