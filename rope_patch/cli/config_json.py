"""Reads a model's ``config.json``, and refuses one that no model has, before any code sees it. Only JSON is read."""

import json
from pathlib import Path
from typing import Any

from rope_patch.cli.answer import CannotAnswer, short, unexpected

Config = dict[str, Any]

LARGEST = 2**20  # bytes of a config.json that is read
DEEPEST = 32  # objects and lists within each other; some multimodal models have 6
# Fields that say how often something is built. Far more than any model has, and built in seconds.
REPEATED = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "num_encoder_layers", "depth"),
    *("encoder_layers", "decoder_layers", "num_nextn_predict_layers", "num_experts", "n_routed_experts"),
    *("num_local_experts", "moe_num_experts"),
)
MOST_REPEATED = 4096


def loaded(place: str) -> Config:
    """The object in ``place``, a model's folder or its ``config.json``.

    Raises:
        CannotAnswer: it cannot be read, is too large or too deep, or repeats something more often than any model does.
    """
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
    _check(config, shown)
    return config


def _check(config: Config, shown: str) -> None:
    level: list[Any] = [config]
    for _ in range(DEEPEST):
        objects = [one for one in level if isinstance(one, dict)]
        for name, value in ((name, value) for one in objects for name, value in one.items()):
            if name in REPEATED and isinstance(value, (int, float)) and not 0 <= value <= MOST_REPEATED:
                raise unexpected(name, value, f"a number from 0 to {MOST_REPEATED}")
        level = [inner for one in objects for inner in one.values()] + [
            inner for one in level if isinstance(one, list) for inner in one
        ]
        level = [one for one in level if isinstance(one, (dict, list))]
        if not level:
            return
    raise CannotAnswer(f"{shown} has more than {DEEPEST} objects and lists within each other, expected a config.json")
