"""What the pictures say, in English and in Chinese: ``words.json``."""

import json
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")


def of(picture: str, language: str) -> dict[str, Any]:
    """Texts by name; {} is filled in by the picture. A list is a box's name, and the lines below that."""
    every = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = every[picture][language]
    return found
