"""Triton-Ascend's Linalg as a tree: operations, and the operations inside loops and conditions."""

import re
from dataclasses import dataclass, field

from tests.host_cann.compiler import linalg_ir


class NotUnderstood(Exception):
    """A part of the IR that the model has no time for. It says so instead of counting nothing."""

    def __init__(self, text: str) -> None:
        super().__init__(f"the model of time does not understand: {text}")


@dataclass
class Node:
    line: int
    name: str
    results: list[str]
    operands: list[str]
    text: str
    shapes: list[linalg_ir.Shape]
    regions: list[list["Node"]] = field(default_factory=list)  # a loop's body; a condition's two branches


def tree(linalg: str) -> Node:
    """The function, its body in ``regions[0]``. ``NotUnderstood`` for text that is no operation."""
    open_nodes: list[Node] = [Node(-1, "module", [], [], "", [], [[]])]
    for number, raw in enumerate(linalg.splitlines()):
        line = raw.strip()
        if line.startswith("module") or not line:
            continue
        if line.startswith("} else {"):
            open_nodes[-1].regions.append([])
            continue
        if line.startswith("}"):
            if len(open_nodes) > 1:
                open_nodes.pop()
            continue
        if line.startswith("(") and line.endswith("{"):  # what a linalg.reduce does with two elements
            node = open_nodes[-1].regions[-1][-1]
            node.regions.append([])
            open_nodes.append(node)
            continue
        node = _operation(number, line)
        open_nodes[-1].regions[-1].append(node)
        if line.endswith("{"):
            node.regions.append([])
            open_nodes.append(node)
    (function,) = open_nodes[0].regions[0]
    return function


def _operation(number: int, line: str) -> Node:
    text, names = line, []
    if assigned := linalg_ir.ASSIGNED.match(line):
        names, text = assigned.group(1).split(", "), assigned.group(2)
    word = re.match(r"[a-z_]+\.[\w.]+|return", text)
    if not word or any(":" in name for name in names):
        raise NotUnderstood(line)
    return Node(number, word.group(), names, re.findall(r"%[\w$.#-]+", text), text, linalg_ir.shapes(text))


def brackets(text: str) -> list[list[str]]:
    """What stands between square brackets before the types: offsets, sizes, strides."""
    before_types = text.split(" : ")[0]
    return [
        [part.strip() for part in inside.split(",") if part.strip()]
        for inside in re.findall(r"\[([^\]]*)\]", before_types)
    ]
