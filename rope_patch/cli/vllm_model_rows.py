"""The rotary embeddings of a model of vLLM, and the heads of the attention beside each: a row for each kind."""

import json
import re
from typing import Any

MADE = "_rope_patch_made"  # the attribute in which an embedding keeps its class and arguments


def described(model: Any, config: Any) -> dict[str, Any]:
    modules = dict(model.named_modules())
    rows: dict[str, dict[str, Any]] = {}
    bare, used = 0, set()
    for name, attention in modules.items():
        if not all(hasattr(attention, wanted) for wanted in ("layer_name", "num_heads", "num_kv_heads", "head_size")):
            continue
        beside, ropes = _beside(name, modules)
        bare += not ropes
        for child, rope in ropes:
            used.add(id(rope))
            row = _row(child, rope, attention, beside)
            layer = re.search(r"\.(\d+)\.", f"{name}.")
            key = json.dumps(row, sort_keys=True)
            rows.setdefault(key, {**row, "layers": 0, "first": layer and int(layer[1])})["layers"] += 1
    rotaries = [module for module in modules.values() if "rotary" in type(module).__name__.lower()]
    others = {type(module).__name__ for module in rotaries if id(module) not in used} - {"ApplyRotaryEmb"}
    length = getattr(config.model_config, "max_model_len", None)
    return {"rows": [{**row, "model_length": length} for row in rows.values()], "bare": bare, "others": sorted(others)}


def _beside(name: str, modules: dict[str, Any]) -> tuple[Any, list[tuple[str, Any]]]:
    """The rotary embeddings beside an attention, with their names: in the module that has it, or in the one around."""
    for depth in (1, 2):
        module = modules.get(name.rsplit(".", depth)[0]) if name.count(".") >= depth else None
        ropes = [(child, rope) for child, rope in getattr(module, "_modules", {}).items() if _is_rotary(rope)]
        if ropes:
            return module, ropes
    return None, []


def _is_rotary(module: Any) -> bool:
    return all(hasattr(module, name) for name in ("rotary_dim", "head_size"))


def _row(child: str, rope: Any, attention: Any, beside: Any) -> dict[str, Any]:
    num_heads, num_kv_heads = attention.num_heads, attention.num_kv_heads
    if rope.head_size == getattr(beside, "qk_rope_head_dim", None):  # latent attention: one key for all heads
        num_kv_heads = 1
    indexer: Any = getattr(beside, "indexer", None)
    if "index" in child and hasattr(indexer, "n_head"):  # sparse attention chooses its tokens by heads of its own
        num_heads, num_kv_heads = indexer.n_head, 1
    cls, arguments = rope.__dict__.get(MADE, (type(rope), None))
    cache = getattr(rope, "cos_sin_cache", getattr(rope, "long_short_cos_sin_cache", None))
    return {
        "embedding": cls.__name__,
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "arguments": arguments and {name: _plain(value) for name, value in arguments.items()},
        "head_size": rope.head_size,
        "rotary_dim": rope.rotary_dim,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "is_neox_style": bool(getattr(rope, "is_neox_style", True)),  # LongRoPE's class knows no other
        "sections": _plain(getattr(rope, "mrope_section", None) or getattr(rope, "xdrope_section", None)),
        "norms": _norms(rope, beside),
        "interleaved": bool(getattr(rope, "mrope_interleaved", False)),
        "table": None if cache is None else list(cache.shape),
    }


def _norms(rope: Any, beside: Any) -> dict[str, Any] | None:
    """Those of q and k, if both are normed alike and head by head."""
    both: list[Any] = [getattr(beside, name, None) for name in ("q_norm", "k_norm")]
    kinds = {type(norm).__name__ for norm in both}
    sizes = {tuple(getattr(getattr(norm, "weight", None), "shape", ())) for norm in both}
    if len(kinds) != 1 or sizes != {(rope.head_size,)} or not hasattr(both[0], "variance_epsilon"):
        return None
    gate = bool(getattr(beside, "attn_output_gate", False))
    attention = type(beside).__name__
    return {"kind": kinds.pop(), "eps": both[0].variance_epsilon, "gate": gate, "attention": attention}


def _plain(value: Any) -> Any:
    """As JSON has it. A dtype becomes None: whoever makes the embedding again has one of their own."""
    import torch

    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.dtype):
        return None
    raise TypeError(f"an argument of its rotary embedding is {type(value).__name__}")
