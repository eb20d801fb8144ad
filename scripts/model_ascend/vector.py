"""How long vector operations take: 256 bytes a cycle of the wider side, rows apart where they are apart."""

import math

from scripts.model_ascend.rates import Rates
from scripts.model_ascend.regions import Node, NotUnderstood, brackets
from tests.host_cann.compiler.linalg_ir import BITS, Shape

# One pass over the tile. Vectors of int64, and integer comparisons, are scalar code on Ascend and not listed.
ONE_PASS = {
    "arith.addf", "arith.subf", "arith.mulf", "arith.divf", "arith.negf", "arith.extf", "arith.truncf", "arith.trunci",
    "arith.maxsi", "arith.minsi", "arith.muli", "arith.addi", "math.sqrt", "linalg.broadcast", "linalg.fill",
}  # fmt: skip
INT64 = {"arith.muli", "arith.addi"}


def cycles(node: Node, rates: Rates) -> float:
    """Of a vector operation; ``NotUnderstood`` naming it if there is no rate for it."""
    shapes = [shape for shape in node.shapes if shape.dims]
    if node.name in ("tensor.extract_slice", "tensor.insert_slice"):
        return _slice(node, shapes, rates)
    if node.name == "linalg.reduce":
        return rates.vector_cycles + rates.reduce_passes * max(_passes(shape, rates) for shape in shapes)
    int64 = any(shape.element == "i64" for shape in shapes) and node.name in INT64
    if node.name not in ONE_PASS or not shapes or int64:
        raise NotUnderstood(node.text)
    return rates.vector_cycles + max(_passes(shape, rates) for shape in shapes)


def refuse_lone_strides(nodes: list[Node]) -> None:
    """A stride of two written without its other half is 10 to 29 times slower than a pair, whatever that takes."""
    halves = [node for node in nodes if node.name == "tensor.insert_slice" and brackets(node.text)[2][-1] == "2"]
    completed = {node.operands[1] for node in halves if brackets(node.text)[0][-1] == "1"}
    for node in halves:
        if brackets(node.text)[0][-1] != "1" and node.results[0] not in completed:
            raise NotUnderstood(node.text)
    for node in nodes:
        for region in node.regions:
            refuse_lone_strides(region)


def _passes(shape: Shape, rates: Rates) -> float:
    if -1 in shape.dims:
        raise NotUnderstood(f"a vector of unknown length: {shape}")
    elements, row = math.prod(shape.dims[:-1]), shape.dims[-1] * BITS[shape.element] // 8
    padded = -(-row // rates.block_bytes) * rates.block_bytes  # rows begin at whole blocks
    return -(-elements * padded // rates.vector_bytes)


def _slice(node: Node, shapes: list[Shape], rates: Rates) -> float:
    """A stride parts or joins pairs. Taking whole blocks out is a way of looking; putting them back is a copy."""
    offsets, _, strides = brackets(node.text)
    small = shapes[0] if node.name == "tensor.insert_slice" else shapes[-1]
    large = shapes[-1] if node.name == "tensor.insert_slice" else shapes[0]
    if set(strides) != {"1"}:
        if strides[-1] != "2" or set(strides[:-1]) > {"1"}:
            raise NotUnderstood(node.text)
        flat = Shape((math.prod(large.dims),), large.element)
        return rates.vector_cycles + rates.interleave_passes * _passes(flat, rates)
    size = BITS[large.element] // 8
    blocks = not any(lanes * size % rates.block_bytes for lanes in (_number(offsets[-1]), large.dims[-1]))
    whole = small.dims[1:] == large.dims[1:]
    if whole or (node.name == "tensor.extract_slice" and blocks):
        return 0.0
    return rates.vector_cycles + _passes(small, rates)


def _number(text: str) -> int:
    if not text.isdigit():
        raise NotUnderstood(f"a slice that begins at {text}")
    return int(text)
