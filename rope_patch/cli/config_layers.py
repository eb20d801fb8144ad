"""Which kinds of layers a ``config.json`` describes, and what its fields are for each of them. Only JSON is read."""

import json
from collections.abc import Iterator

from rope_patch.cli.answer import unexpected
from rope_patch.cli.config_json import Config

PART = "partial_rotary_factor"
# Lists with one entry for each layer, and the field that an entry stands for.
PER_LAYER = {
    "rope_theta": "rope_theta",
    "layer_rope_theta": "rope_theta",  # Muse: 0 where a layer does not rotate
    "partial_rotary_factors": "partial_rotary_factor",
    "num_attention_heads": "num_attention_heads",
    "num_attention_heads_per_layer": "num_attention_heads",
    "num_query_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
}
SINGLE = "per_layer_config"  # the fields of single layers
# Of layers with a sliding window (MiMo-V2): their fields, and what these stand for elsewhere.
SLIDING = {
    "swa_head_dim": "head_dim",
    "swa_num_attention_heads": "num_attention_heads",
    "swa_num_key_value_heads": "num_key_value_heads",
    "swa_rope_theta": "rope_theta",
}


def kinds(config: Config) -> list[tuple[str, Config, Config]]:
    """For each kind of layer: its name, its fields, and its rotary parameters."""
    found: dict[str, tuple[str, Config, Config]] = {}
    for name, layer in _layers(config):
        for which, parameters in _by_layer(layer, name).items():
            single = {"rope_theta": layer.get("rope_theta"), PART: layer.get(PART)}
            names = {field: layer.get(field) for field in ("num_attention_heads", "num_key_value_heads", "head_dim")}
            key = json.dumps([which and name, parameters, single, names], default=str, sort_keys=True)
            found.setdefault(key, (which or name, layer, parameters))
    several = list(found.values())
    return [("", *several[0][1:])] if len(several) == 1 and not _nested(config) else several


def _layers(config: Config) -> Iterator[tuple[str, Config]]:
    """The fields as they are for each kind of layer, and its name; empty where all are alike."""
    types = config.get("layer_types")
    types = types if isinstance(types, list) and all(isinstance(one, str) for one in types) else []
    each = _of_each_layer(config)
    if each:
        for layer, fields in enumerate(each):
            name = types[layer] if layer < len(types) else f"layer {layer}"
            if fields.get("rope_theta", 1) != 0:
                yield name, _with_other_setting({**config, **fields}, name)
        return
    if any(config.get(field) is not None for field in SLIDING):
        yield "full_attention", config
        own = {name: config[field] for field, name in SLIDING.items() if config.get(field) is not None}
        yield "sliding_attention", {**config, **own}
        return
    kinds = dict.fromkeys(types) if _nested(config) or config.get("attention_other_setting") else {}
    for name in kinds or [""]:
        yield name, _with_global(_with_other_setting(config, name), name)


def _of_each_layer(config: Config) -> list[Config]:
    """The fields that are given layer by layer, for each of them; an empty list if there are none."""
    count = config.get("num_hidden_layers") or config.get("num_transformer_layers")
    if not isinstance(count, int):
        return []
    lists = {name: config[name] for name in PER_LAYER if isinstance(config.get(name), list)}
    lists = {name: values for name, values in lists.items() if 0 < count <= len(values)}
    single = object_in(config, SINGLE) or {}
    for layer, fields in single.items():  # transformers 5: by the layer's number
        if not layer.isdecimal() or int(layer) >= count or not isinstance(fields, dict):
            raise unexpected(SINGLE, single, f"an object of fields for each of some layers, from 0 to {count - 1}")
    if not lists and not single:
        return []
    found: list[Config] = [{PER_LAYER[name]: values[layer] for name, values in lists.items()} for layer in range(count)]
    for layer, fields in single.items():
        found[int(layer)] |= fields
    return found


def _with_other_setting(config: Config, name: str) -> Config:
    """Step-3.5: what is other in layers of one kind."""
    other = object_in(config, "attention_other_setting")
    if other is None or other.get("attention_type") != name:
        return config
    return {**config, **{field: value for field, value in other.items() if field != "attention_type"}}


def _with_global(config: Config, name: str) -> Config:
    """Gemma 4: full attention has heads of another size, and other key heads if its keys are its values."""
    if name != "full_attention":
        return config
    if config.get("global_head_dim") is None and str(config.get("model_type")).startswith("gemma4"):
        raise unexpected("global_head_dim", None, "the head size of full attention")
    own = {"head_dim": config.get("global_head_dim") or config.get("head_dim")}
    if config.get("attention_k_eq_v") and config.get("num_global_key_value_heads") is not None:
        own["num_key_value_heads"] = config["num_global_key_value_heads"]
    return {**config, **own}


def _nested(config: Config) -> Config:
    """The rotary parameters of each kind of layer, where ``rope_parameters`` has such."""
    parameters = object_in(config, "rope_parameters") or {}
    return {name: value for name, value in parameters.items() if isinstance(value, dict)}


def _by_layer(config: Config, name: str) -> dict[str, Config]:
    """The rotary parameters of this kind of layer; of each, with its name, where the configuration has more."""
    nested = _nested(config)
    if name in nested:
        return {name: nested[name]}
    if nested and not name:
        return nested
    parameters = object_in(config, "rope_parameters") or object_in(config, "rope_scaling") or {}
    local = config.get("rope_local_base_freq")  # Gemma 3, as it was
    if local is None or nested:
        return {"": {} if nested else parameters}
    return {"full_attention": parameters, "sliding_attention": {"rope_theta": local}}


def object_in(config: Config, name: str) -> Config | None:
    """The object in that field, or None."""
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise unexpected(name, value, "a JSON object")
    return value
