"""The second way to a model's rotary embeddings: the fields of its ``config.json``, where vLLM's code gives no answer.

It knows what some models' fields mean, and refuses by name what it does not understand. Only JSON is read.
"""

from typing import Any

from rope_patch.cli import config_layers, model_types, sections
from rope_patch.cli.answer import CannotAnswer, even, number, short, text, unexpected, whole
from rope_patch.cli.config_json import Config
from rope_patch.cli.rope_config import RopeConfig

# Upper limits: far more than any model has, and far less than what would exhaust a machine's memory.
MOST_HEADS, MOST_LANES, MOST_POSITIONS = 1024, 1024, 2**24
# The names of scalings that some release of vLLM knows, in get_rope or where it reads configurations.
SCALINGS = {
    *("default", "linear", "ntk", "dynamic", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "telechat3-yarn"),
    *("longrope", "su", "llama3", "mllama4", "mrope", "bailing_mrope", "xdrope", "openpangu", "proportional"),
}
PARTS = ("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction")


# Where a multimodal model has its language model's fields, from the outside to the inside.
INSIDE = ("thinker_config", "text_config", "llm_config", "language_config")
# What changes a rotation or the heads beside it in a way that is not understood here.
REFUSED = (
    *("dual_chunk_attention_config", "compress_ratios", "block_configs", "use_fope", "alibi", "layer_norms_config"),
    *("position_embedding_type", "attn_config", "mixer_types", "rope_types"),
)
FINE = {"position_embedding_type": ("rope", "rotary", "rotary_half"), "alibi": (False,), "use_fope": (False,)}


def ropes(config: Config, ranks: int) -> list[RopeConfig]:
    """The rotary embeddings of one of so many ranks of the model, one for each kind of layer.

    Raises:
        CannotAnswer: a field is missing, has a value that no model has, or is not understood; the sentence names it.
    """
    kind = _text(config, "model_type", default="model")
    for name in INSIDE:
        config = config_layers.object_in(config, name) or config
    found = []
    for name, layer, parameters in config_layers.kinds(config):
        rope = _rope(name, layer, parameters, kind, ranks)
        found += [rope, *_of_indexer(layer, rope)]
    return found


def _of_indexer(config: Config, rope: RopeConfig) -> list[RopeConfig]:
    """Sparse attention chooses its tokens by heads of its own, which rotate as many lanes, perhaps in another style."""
    size, model_type = config.get("index_head_dim"), _text(config, "model_type", default="model")
    if size is None:
        return []
    if model_type not in model_types.INDEXED or config.get("qk_rope_head_dim") in (None, 0):
        raise CannotAnswer(f"index_head_dim is {short(size)}: how its heads rotate is not known of {model_type}")
    heads = _whole(config, "index_n_heads", most=MOST_HEADS)
    interleaved = config.get("indexer_rope_interleave", model_type in model_types.INDEXED_GPT_J)
    if not isinstance(interleaved, bool):
        raise unexpected("indexer_rope_interleave", interleaved, "true or false")
    # Every rank has all of them.
    return [rope._replace(name=f"{rope.name} indexer", num_heads=heads, is_neox_style=not interleaved)]


def _rope(name: str, config: Config, parameters: Config, kind: str, ranks: int) -> RopeConfig:
    for field in REFUSED:
        if config.get(field) is not None and config[field] not in FINE.get(field, ()):
            raise CannotAnswer(
                f"{field} is {short(config[field])}: it changes how the model rotates, and is not understood"
            )
    model_type = _text(config, "model_type", default=kind)
    if model_type in model_types.NONE:
        raise CannotAnswer(f"no rotary embedding: model_type is {model_type}")
    heads = _whole(config, "num_attention_heads", "n_head", most=MOST_HEADS)
    kv_heads = _kv_heads(config, heads, model_type)
    positions = _whole(config, "max_position_embeddings", "seq_length", most=MOST_POSITIONS, default=8192)
    latent = config.get("qk_rope_head_dim") not in (None, 0)  # 0: a model that could have it, but has not
    if latent:  # multi-head latent attention rotates separate lanes, with one key head for all heads
        head_size = even("qk_rope_head_dim", config["qk_rope_head_dim"], MOST_LANES)
        kv_heads, neox = 1, model_type in model_types.LATENT_NEOX
    else:
        head_size = _head_size(config, heads)
        neox = _is_neox(model_type)
    if heads % ranks:
        raise CannotAnswer(f"--tensor-parallel-size is {ranks}: {heads} heads cannot be divided among {ranks} ranks")
    if kv_heads % ranks and ranks % kv_heads:
        raise CannotAnswer(f"--tensor-parallel-size is {ranks}: {kv_heads} key heads cannot be shared by {ranks} ranks")
    rotary_dim = _rotary_dim({} if latent else {**config, "model_type": model_type}, parameters, head_size)
    found = sections.of(config, model_type, parameters, rotary_dim)
    return RopeConfig(
        name=f"{kind} {name}".strip(),
        head_size=head_size,
        rotary_dim=rotary_dim,
        num_heads=heads // ranks,
        num_kv_heads=max(1, kv_heads // ranks),
        is_neox_style=neox,
        # Below 1, higher lanes would rotate faster instead of slower; up to 1e15, float64 still resolves the angles.
        theta=number("rope_theta", _theta(parameters, config), 1, 1e15),
        max_position=positions,
        scaling=_scaling(parameters),
        parameters=parameters,
        sections=found,
        positions=3 if found else 1,
    )


def _is_neox(model_type: str) -> bool:
    if model_type in model_types.GPT_J:
        return False
    if model_type in model_types.NEOX:
        return True
    raise CannotAnswer(f"model_type is {short(model_type)}: which of its lanes make a pair is not known")


def _kv_heads(config: Config, heads: int, model_type: str) -> int:
    many = config.get("multi_query", False)
    if not isinstance(many, bool):
        raise unexpected("multi_query", many, "true or false")
    if many and not config.get("new_decoder_architecture"):  # Falcon
        return 1
    names = "num_key_value_heads", "multi_query_group_num", "num_kv_heads", "num_attention_groups"
    return _whole(config, *names, most=MOST_HEADS, default=heads)


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
    if parameters.get("rope_type") == "proportional":  # Gemma 4 turns the other lanes by an angle of 0
        return head_size
    if model_type == "chatglm" or (
        part is None and model_type in model_types.HALF
    ):  # chatglm's configuration never says it
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


def _field(config: Config, *names: str) -> tuple[str, Any]:
    """The first of ``names`` that is set, and its value. If none is set: all names joined by "or", and None."""
    return next(((name, config[name]) for name in names if config.get(name) is not None), (" or ".join(names), None))


def _whole(config: Config, *names: str, least: int = 1, most: int, default: int | None = None) -> int:
    name, value = _field(config, *names)
    return default if value is None and default is not None else whole(name, value, least, most)


def _text(config: Config, *names: str, default: str) -> str:
    name, value = _field(config, *names)
    return default if value is None else text(name, value)
