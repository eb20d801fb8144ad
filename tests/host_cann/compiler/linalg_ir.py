"""Triton-Ascend's Linalg, read as a list of operations: just enough of MLIR's text for counting.

The text is what ``triton-adapter-opt`` prints: one operation per line, structured loops, no branches. Anything this
reader cannot size is an error, not a guess.
"""

import math
import re
from dataclasses import dataclass, field

BITS = {"i1": 8, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "index": 64}
SHAPED = re.compile(r"(?:tensor|memref)<((?:\d+x|\?x)*)(\w+)(?:, strided<\[([^\]]*)\][^>]*>)?[^>]*>")
ASSIGNED = re.compile(r"^((?:%[\w$.-]+(?::\d+)?(?:, )?)+) = (.*)$")


@dataclass(frozen=True)
class Shape:
    """The shape and element type of a tensor or memref; ``strides`` only where the text gives them."""

    dims: tuple[int, ...]
    element: str
    strides: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return math.prod(self.dims) * BITS[self.element] // 8

    def contiguous_bytes(self) -> int:
        """How long the runs of adjacent addresses are that the elements lie in; sizes known only at run time end
        one."""
        run, expected = BITS[self.element] // 8, 1
        for axis in reversed(range(len(self.dims))):
            if self.dims[axis] == 1:
                continue
            if self.dims[axis] < 0 or (self.strides and self.strides[axis] != str(expected)):
                break
            run, expected = run * self.dims[axis], expected * self.dims[axis]
        return run


@dataclass
class Operation:
    line: int
    name: str
    results: list[str]
    operands: list[str]
    text: str
    loops: tuple[int, ...]  # the lines of the scf.for loops around it
    shapes: list[Shape] = field(default_factory=list)

    @property
    def shape(self) -> Shape | None:
        """The shape of its result, which the text gives last."""
        return self.shapes[-1] if self.shapes else None


def shapes(text: str) -> list[Shape]:
    found = []
    for dims, element, strides in SHAPED.findall(text):
        sizes = tuple(-1 if d == "?" else int(d) for d in dims.split("x")[:-1])
        found.append(Shape(sizes, element, tuple(s.strip() for s in strides.split(",")) if strides else ()))
    return found


def operations(linalg: str) -> list[Operation]:
    """The kernel's operations in order. Lines are numbered from 0; region bodies of linalg.generic are skipped."""
    result: list[Operation] = []
    open_regions: list[int | None] = []  # the loop's line, or None for any other region
    for number, raw in enumerate(linalg.splitlines()):
        line = raw.strip()
        if line.startswith("}"):
            if open_regions:
                open_regions.pop()
            line = line[1:].strip()
        names: list[str] = []
        if match := ASSIGNED.match(line):
            names = [n.split(":")[0] for n in match.group(1).split(", ")]
            line = match.group(2)
        if word := re.match(r"[a-z_]\w*\.[\w.]+", line):
            loops = tuple(at for at in open_regions if at is not None)
            operands = [v.split("#")[0] for v in re.findall(r"%[\w$.#-]+", line)]
            result.append(Operation(number, word.group(), names, operands, line, loops, shapes(line)))
        if line.endswith("{"):
            open_regions.append(number if line.startswith("scf.for") else None)
    return result


def loop_ends(linalg: str) -> dict[int, int]:
    """The last line of each scf.for, by its first."""
    ends: dict[int, int] = {}
    open_regions: list[tuple[int, bool]] = []
    for number, raw in enumerate(linalg.splitlines()):
        line = raw.strip()
        if line.startswith("}") and open_regions:
            first, is_loop = open_regions.pop()
            if is_loop:
                ends[first] = number
        if line.endswith("{"):
            open_regions.append((number, bool(re.search(r"\bscf\.for\b", line))))
    return ends
