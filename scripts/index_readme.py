"""The README as a package index shows it, where links to files of this source would lead nowhere.

hatchling asks for it when a wheel or a source distribution is built (``[tool.hatch.metadata.hooks.custom]``).
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)]*)\)")
NOTE = "\nPaths in this text are those of the source distribution.\n"


class IndexReadme(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_an_index(text)}


def for_an_index(markdown: str) -> str:
    """``markdown`` without pictures, and with a path in place of each link that is not absolute."""
    pieces = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)  # every other one is a block of code
    return "".join(piece if n % 2 else LINK.sub(_in_words, piece) for n, piece in enumerate(pieces)) + NOTE


def _in_words(link: re.Match[str]) -> str:
    picture, text, target = link.groups()
    if target.startswith(("https://", "http://")):
        return link[0]
    path = target.partition("#")[0]
    if picture:
        return ""
    return text if path in ("", text) else f"{text} (`{path}`)"
