"""Scalar arithmetic, worked out: offsets, trip counts and conditions of one program. Unknown data stay unknown."""

import re
from collections.abc import Sequence

from scripts.model_ascend.regions import Node, NotUnderstood

Number = int | None  # None: only data in memory decide it


class Varying(int):
    """A number that differs from one iteration of a loop to the next."""


COMPARED = {
    "slt": lambda a, b: a < b, "sle": lambda a, b: a <= b, "sgt": lambda a, b: a > b, "sge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}  # fmt: skip
OPERATIONS = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "arith.remsi": lambda a, b: abs(a) % abs(b) * (1 if a >= 0 else -1),
    "arith.maxsi": max,
    "arith.minsi": min,
    "arith.andi": lambda a, b: a & b,
    "arith.ori": lambda a, b: a | b,
    "arith.extsi": lambda a: a,
    "arith.trunci": lambda a: a,
    "arith.index_cast": lambda a: a,
    "arith.index_castui": lambda a: a,
}


def result(node: Node, operands: Sequence[Number]) -> Number:
    """Of one scalar operation; ``NotUnderstood`` naming it if it is not listed."""
    if node.name == "arith.constant":
        value = re.match(r"arith\.constant (true|false|-?\d+)(?= |$)", node.text)
        return (
            {"true": 1, "false": 0}.get(value.group(1))
            if value and value.group(1).isalpha()
            else (int(value.group(1)) if value else None)
        )
    if node.name == "arith.cmpi":
        operation = COMPARED.get(node.text.split()[1].rstrip(","))
    else:
        operation = OPERATIONS.get(node.name)
    if operation is None:
        raise NotUnderstood(node.text)
    if any(value is None for value in operands):
        return None
    value = int(operation(*operands))
    return Varying(value) if any(isinstance(operand, Varying) for operand in operands) else value
