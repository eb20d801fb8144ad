"""What the installed vllm-ascend computes without rope_patch: ``python -m tests.ascend_stack.native``.

Prints one JSON object. ``errors``: for every dtype and shape of ``tests/shapes.py``, the largest error of query and key
against the fp32 reference, or the exception's name. ``graphs``: see ``graphs.py``. ``key``: of vLLM's compile cache. A
process of its own, since it must run with rope_patch switched off.
"""

import dataclasses
import json
import sys

from rope_patch.operators.reference import rotate
from tests import rotations
from tests.ascend_stack import graphs, harness
from tests.shapes import SHAPES, ModelShape

DTYPES = ("bfloat16", "float16")


def error(stack: harness.Stack, shape: ModelShape, dtype: str) -> float | str:
    torch_dtype = getattr(stack.torch, dtype)
    dims = {"head_size": shape.head_size, "rotary_dim": shape.rotary_dim, "is_neox_style": shape.is_neox_style}
    embedding = stack.build(**dims, dtype=torch_dtype)
    case = rotations.rotation(5, shape.num_heads, shape.num_kv_heads, **dims, dtype=torch_dtype)
    case = dataclasses.replace(case, cache=embedding.cos_sin_cache)
    before = [case.heads(tensor) for tensor in (case.query, case.key)]
    try:
        after = stack.rotate(embedding, case.positions, case.query, case.key)
    except Exception as exception:
        return type(exception).__name__
    positions, cache = case.positions.cpu(), case.cache.cpu()
    return max(
        (case.heads(a) - rotate(positions, b, cache, case.asked)).abs().max().item()
        for a, b in zip(after, before, strict=True)
    )


def main() -> None:
    stack = harness.start()
    graph_mode = {
        "key": graphs.cache_key(),
        "graphs": graphs.table(stack),
    }  # first: what is warned of once is warned of
    table = {dtype: {shape.model: error(stack, shape, dtype) for shape in SHAPES} for dtype in DTYPES}
    sys.stdout.write("\n" + json.dumps({"errors": table} | graph_mode) + "\n")


if __name__ == "__main__":
    main()
