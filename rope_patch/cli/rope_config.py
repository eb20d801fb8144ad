"""The rotary embeddings of a model: read from its config.json, or the built-in list. Only JSON is read."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from rope_patch.cli import sections
from rope_patch.cli.answer import CannotAnswer, even, number, short, text, unexpected, whole
from rope_patch.cli.sections import Sections

Config = dict[str, Any]

LARGEST = 2**20  # bytes of a config.json that is read
# model_type of the models that pair lanes as (0, 1), (2, 3) ...; no other field of a configuration says so. These are
# the models of vLLM 0.32 that pass is_neox_style=False to get_rope.
GPT_J_STYLE = {
    *("chatglm", "glm", "glm4", "gptj", "ernie4_5", "ernie4_5_moe", "cohere", "cohere2"),
    *("glm4v", "glm4v_text", "glm46v", "glm_ocr", "glm_ocr_text", *sections.ERNIE),
}
# model_type of the models that rotate half of the lanes unless their configurations say otherwise.
HALF = {"glm4", "glm4_moe", "glm4v", "glm4v_text", "glm4v_moe", "glm4v_moe_text", "glm46v", "glm_ocr", "glm_ocr_text"}
# Upper limits: far more than any model has, and far less than what would exhaust a machine's memory.
MOST_HEADS, MOST_LANES, MOST_POSITIONS = 1024, 1024, 2**24
# The names of scalings that some release of vLLM knows, in get_rope or where it reads configurations.
SCALINGS = {
    *("default", "linear", "ntk", "dynamic", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "telechat3-yarn"),
    *("longrope", "su", "llama3", "mllama4", "mrope", "bailing_mrope", "xdrope", "openpangu", "proportional"),
}
PARTS = ("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction")


class RopeConfig(NamedTuple):
    """A rotary embedding as one tensor-parallel rank has it. What is printed calls it a shape."""

    name: str
    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int
    is_neox_style: bool = True
    theta: float = 10000.0
    max_position: int = 8192
    scaling: str = "default"
    parameters: dict[str, Any] | None = None  # the scaling's, as in the configuration
    sections: Sections | None = None  # None: a token has one position


_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# Head sizes, rotary dims, styles and head counts of models in use. Some rotary dims are not powers of two.
BUILT_IN = (
    RopeConfig("Llama-3.1-8B", 128, 128, 32, 8, True, 500000.0, 131072, "llama3", {"factor": 8.0, **_LLAMA3}),
    RopeConfig("Qwen2.5-7B", 128, 128, 28, 4),
    RopeConfig("Llama-3.2-1B", 64, 64, 32, 8, True, 500000.0, 131072, "llama3", {"factor": 32.0, **_LLAMA3}),
    RopeConfig("GLM-4-9B", 128, 64, 32, 2, False),
    RopeConfig("Phi-3-mini", 96, 96, 32, 32),
    RopeConfig("Phi-4-mini", 128, 96, 24, 8),
    RopeConfig("StableLM-3B", 80, 20, 32, 32),
    RopeConfig("Gemma-2", 256, 256, 16, 8),
    RopeConfig("GLM-5.2 draft", 192, 192, 64, 64),
    RopeConfig("DeepSeek MLA", 64, 64, 128, 1, False),
    RopeConfig("GLM-4.1V", 128, 64, 32, 2, False, sections=Sections("chunked", (8, 12, 12))),
    RopeConfig("Qwen3-VL-8B", 128, 128, 32, 8, True, 5e6, sections=Sections("interleaved", (24, 20, 20))),
)


def selected(place: str | None, tensor_parallel_size: int) -> list[RopeConfig]:
    """The rotary embeddings of the model in ``place``, or the built-in list if there is no ``place``.

    Raises:
        CannotAnswer: as ``of_model``; or heads should be divided, but no model is named.
    """
    whole("--tensor-parallel-size", tensor_parallel_size, 1, MOST_HEADS)
    if place is not None:
        return of_model(place, tensor_parallel_size)
    if tensor_parallel_size > 1:
        raise unexpected("--tensor-parallel-size", tensor_parallel_size, "1 without a MODEL")
    return list(BUILT_IN)


def of_model(place: str, tensor_parallel_size: int = 1) -> list[RopeConfig]:
    """The rotary embeddings of one rank of the model. ``place`` is its folder or its ``config.json``.

    Raises:
        CannotAnswer: it cannot be read; or a field is missing, or has a value that no model has, and the sentence names
            it.
    """
    config = _loaded(place)
    kind = _text(config, "model_type", default="model")
    # A multimodal model has its language model's fields in there.
    for name in ("thinker_config", "text_config", "llm_config"):
        config = _object(config, name) or config
    return _ropes(config, kind, tensor_parallel_size)


def _loaded(place: str) -> Config:
    if not place:
        raise unexpected("MODEL", place, "a model folder or a config.json")
    shown = place if len(place) < 200 else short(place)
    try:
        file = Path(place, "config.json") if Path(place).is_dir() else Path(place)
        if not file.is_file():
            raise CannotAnswer(f"{shown} is neither a model folder with a config.json nor such a file")
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise CannotAnswer(f"{shown} is larger than {LARGEST} bytes, expected a config.json")
        config = json.loads(content)
    except OSError as error:
        raise CannotAnswer(f"{shown} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CannotAnswer(f"{shown} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CannotAnswer(f"{shown} is {short(config)}, expected a JSON object")
    return config


def _ropes(config: Config, kind: str, ranks: int) -> list[RopeConfig]:
    heads = _whole(config, "num_attention_heads", "n_head", most=MOST_HEADS)
    kv_names = "num_key_value_heads", "multi_query_group_num", "num_kv_heads"
    kv_heads = _whole(config, *kv_names, most=MOST_HEADS, default=heads)
    model_type = _text(config, "model_type", default=kind)
    neox = model_type not in GPT_J_STYLE
    positions = _whole(config, "max_position_embeddings", "seq_length", most=MOST_POSITIONS, default=8192)
    latent = config.get("qk_rope_head_dim") not in (None, 0)  # 0: a model that could have it, but has not
    if latent:  # multi-head latent attention rotates separate lanes, with one key head for all heads
        head_size = even("qk_rope_head_dim", config["qk_rope_head_dim"], MOST_LANES)
        kv_heads, neox = 1, False
    else:
        head_size = _head_size(config, heads)
    if heads % ranks:
        raise CannotAnswer(f"--tensor-parallel-size is {ranks}: {heads} heads cannot be divided among {ranks} ranks")
    if kv_heads % ranks and ranks % kv_heads:
        raise CannotAnswer(f"--tensor-parallel-size is {ranks}: {kv_heads} key heads cannot be shared by {ranks} ranks")
    ropes = []
    for name, parameters in _by_layer(config).items():
        rotary_dim = _rotary_dim({} if latent else {**config, "model_type": model_type}, parameters, head_size)
        rope = RopeConfig(
            name=f"{kind} {name}".strip(),
            head_size=head_size,
            rotary_dim=rotary_dim,
            num_heads=heads // ranks,
            num_kv_heads=max(1, kv_heads // ranks),
            is_neox_style=neox,
            # Below 1, higher lanes would rotate faster instead of slower; up to 1e15, float64 still resolves the
            # angles.
            theta=number("rope_theta", _theta(parameters, config), 1, 1e15),
            max_position=positions,
            scaling=_scaling(parameters),
            parameters=parameters,
            sections=sections.of(config, model_type, parameters, rotary_dim),
        )
        ropes.append(rope)
    return ropes


def _head_size(config: Config, heads: int) -> int:
    name, value = _field(config, "head_dim", "kv_channels", "attention_head_dim")
    if value is not None:
        return whole(name, value, 2, MOST_LANES)
    return _whole(config, "hidden_size", "n_embd", least=2 * heads, most=MOST_LANES * heads) // heads


def _rotary_dim(config: Config, parameters: Config, head_size: int) -> int:
    """Given directly, or as a fraction of the head size, per kind of layer or for all. Rounds down, as vLLM does."""
    if parameters.get(PARTS[0]) is None and config.get("rotary_dim") is not None:
        return even("rotary_dim", config["rotary_dim"], head_size)
    name, part = _field({**config, **parameters}, *PARTS)
    model_type = config.get("model_type")
    if model_type == "chatglm" or (part is None and model_type in HALF):  # chatglm's configuration never says it
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
    # vLLM's cache has as many positions, or ``factor`` times as many as the model.
    if parameters.get("factor") is not None:
        number("factor", parameters["factor"], 0, 4096)
    _whole(parameters, "original_max_position_embeddings", most=MOST_POSITIONS, default=8192)
    return kind


def _by_layer(config: Config) -> dict[str, Config]:
    """The rotary parameters for each kind of layer; for one kind with an empty name if ``rope_parameters`` is flat."""
    parameters = _object(config, "rope_parameters") or _object(config, "rope_scaling") or {}
    nested = {name: value for name, value in parameters.items() if isinstance(value, dict)}
    return nested or {"": parameters}


def _field(config: Config, *names: str) -> tuple[str, Any]:
    """The first of ``names`` that is set, and its value. If none is set: all names joined by "or", and None."""
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
