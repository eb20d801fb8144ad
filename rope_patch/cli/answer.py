"""What a verb answers, for a person and for a program."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """``data`` is what ``--json`` prints, ``text`` says the same to a person; ``ok`` decides exit status 0 or 1."""

    ok: bool
    data: dict[str, Any]
    text: str


class Fault(Exception):
    """The question could not be answered; the message says why, in one line."""

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns, as wide as their widest cell. Control characters become ``?``: a terminal obeys some."""
    cells = [list(header)] + [[_shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in padded)


def _shown(cell: object) -> str:
    return "".join(character if character.isprintable() else "?" for character in str(cell))
