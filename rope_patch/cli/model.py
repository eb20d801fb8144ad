"""The rotary embeddings that a verb looks at: the built-in list, or those of a model.

A model's come from vLLM's own code (``vllm_model.py``), which is asked first. Where it gives no answer, the fields of
``config.json`` are read (``config_reading.py``), and the answer says so.
"""

from typing import Any, NamedTuple

from rope_patch.cli import config_json, config_reading, vllm_model
from rope_patch.cli.answer import CannotAnswer, unexpected, whole
from rope_patch.cli.rope_config import BUILT_IN, SCALINGS, Made, Norms, RopeConfig
from rope_patch.cli.sections import Sections
from rope_patch.cli.vllm_model import Described

MOST_RANKS = 1024
# Of a token's three positions, those classes turn lanes in an order that the kernel knows.
ORDERS = {"MRotaryEmbedding": ("chunked", "interleaved"), "Ernie4_5_VLRotaryEmbedding": ("alternating",) * 2}


class Selected(NamedTuple):
    """What a verb looks at."""

    ropes: list[RopeConfig]
    way: str  # where they come from, and why not from vLLM's own code
    notes: list[str]  # what is not among them


def selected(place: str | None, tensor_parallel_size: int) -> Selected:
    """The rotary embeddings of the model in ``place``, or the built-in list if there is no ``place``.

    Raises:
        CannotAnswer: the model cannot be read, or has no rotary embedding; or heads should be divided, but no model is
            named.
    """
    whole("--tensor-parallel-size", tensor_parallel_size, 1, MOST_RANKS)
    if place is not None:
        return of_model(place, tensor_parallel_size)
    if tensor_parallel_size > 1:
        raise unexpected("--tensor-parallel-size", tensor_parallel_size, "1 without a MODEL")
    return Selected(list(BUILT_IN), "the built-in list", [])


def of_model(place: str, tensor_parallel_size: int = 1) -> Selected:
    """The rotary embeddings of one rank of the model. ``place`` is its folder or its ``config.json``.

    Raises:
        CannotAnswer: it cannot be read, it has none, or a field is missing or has a value that no model has.
    """
    config = config_json.loaded(place)
    try:
        described = vllm_model.ask(config, tensor_parallel_size)
    except vllm_model.NotAsked as why:
        said = f"the fields of config.json, since vLLM's own model code gave no answer ({why})"
        try:
            return Selected(config_reading.ropes(config, tensor_parallel_size), said, [])
        except CannotAnswer as error:
            raise error from why
    return _of_rows(described, str(config.get("model_type", "model")))


def _of_rows(described: Described, name: str) -> Selected:
    notes = [f"{described.bare} attention layers without a rotary embedding"] if described.bare else []
    notes += [f"{one}: no attention has it beside it, so it is not checked" for one in described.others]
    if not described.rows:
        raise CannotAnswer(f"no rotary embedding of vLLM's in {name}: {'; '.join(notes) or 'it has no attention'}")
    ropes = [_rope(row, name, len(described.rows) > 1) for row in described.rows]
    return Selected(ropes, "vLLM's own model code", notes)


def _rope(row: dict[str, Any], name: str, several: bool) -> RopeConfig:
    arguments = row["arguments"] or {}
    sections = row["sections"]
    order = ORDERS.get(row["embedding"])
    known = None
    if sections and order and len(sections) == 3:
        first, second, third = sections
        pairs = (third, first, second) if order[0] == "alternating" else (first, second, third)
        known = Sections(order[row["interleaved"]], pairs)
    table = row["table"] and tuple(row["table"])
    return RopeConfig(
        name=f"{name} layer {row['first']}" if several and row["first"] is not None else name,
        head_size=row["head_size"],
        rotary_dim=row["rotary_dim"],
        num_heads=row["num_heads"],
        num_kv_heads=row["num_kv_heads"],
        is_neox_style=row["is_neox_style"],
        theta=float(arguments.get("base", 10000.0)),
        max_position=table[0] if table else int(arguments.get("max_position_embeddings", 8192)),
        scaling=SCALINGS.get(row["embedding"], row["embedding"]),
        parameters=arguments,
        sections=known,
        layers=row["layers"],
        positions=len(sections) if sections else 1,
        made=Made(row["class"], arguments, row["model_length"], table),
        norms=Norms(**norms) if (norms := row.get("norms")) else None,
    )
