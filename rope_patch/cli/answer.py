"""What a verb answers, for a person and for a program; and the checks of its input."""

import reprlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """``--json`` prints ``data``, else ``text`` is printed. ``ok`` decides between exit status 0 and 1; where the
    answer is ``unknown``, it is 2."""

    ok: bool
    data: dict[str, Any]
    text: str
    unknown: bool = False


class CannotAnswer(Exception):
    """The verb cannot give an answer. The message says why, in one line."""

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def unexpected(field: str, value: object, expected: str) -> CannotAnswer:
    """The error for bad input, in the same sentence for every verb. A long value is shortened."""
    return CannotAnswer(f"{field} is {'missing' if value is None else short(value)}, expected {expected}")


def short(value: object) -> str:
    """The value's ``repr``, shortened to fit into a sentence."""
    return reprlib.repr(value)[:80]  # reprlib shortens each part of a value, but there may be many parts


def whole(field: str, value: object, least: int, most: int, kind: str = "a whole number") -> int:
    """``value`` if it is such a number, else raises CannotAnswer. True is not a number here, although it is an int."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise unexpected(field, value, f"{kind} from {least} to {most}")
    return value


def even(field: str, value: object, most: int) -> int:
    """``value`` if it is an even number from 2 to ``most``, else raises CannotAnswer."""
    found = whole(field, value, 2, most, "an even number")
    if found % 2:
        raise unexpected(field, value, f"an even number from 2 to {most}")
    return found


def number(field: str, value: object, least: float, most: float) -> float:
    """``value`` if it is a number in that range, else raises CannotAnswer. NaN, which Python's JSON allows, is not."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise unexpected(field, value, f"a number from {least:g} to {most:g}")
    return float(value)


def text(field: str, value: object) -> str:
    """``value`` if it is a string of 1 to 100 characters, else raises CannotAnswer."""
    if not isinstance(value, str) or not 0 < len(value) <= 100:
        raise unexpected(field, value, "a name")
    return value


def progress(text: str) -> None:
    """Show ``text`` as the current line of the terminal on standard error, if that is one. An empty text clears it."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns, as wide as their widest cell."""
    cells = [list(header)] + [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in padded)


def printable(line: str) -> str:
    """The line with control characters replaced by ``?``."""
    return "".join(character if character.isprintable() else "?" for character in line)
