"""Executes our kernels as each version of the compiler makes them; they are exact with all of them.

Programs of 1.0.0 (CANN 8.5) run with a later library of vector functions; ``hivmc/__init__.py`` says how.
"""

import numpy as np
import pytest

from rope_patch.operators.arguments import axes_of
from tests.host_cann.fixture import needs_build
from tests.shapes import SHAPES, ModelShape

bishengir = pytest.importorskip("tests.host_cann.bishengir")
pytestmark = [needs_build, pytest.mark.skipif(not bishengir.installed(), reason=bishengir.MISSING)]
by_each = pytest.mark.parametrize("compiler", bishengir.installed(), ids=str)
CACHE_ROWS = 64
NAN = 0x7FC0  # of bf16, as its bits


def narrow(x):
    """fp32 to bf16, to nearest even, as its bits."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def wide(bits):
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def rotated(shape, x, rows):
    """``x`` ``[num_tokens, num_heads * head_size]`` as bf16 bits, rotated in fp32 by its tokens' cosines and sines, and
    rounded once."""
    x = wide(x).reshape(len(x), -1, shape.head_size)
    cos, sin = (wide(half)[:, None] for half in np.split(rows, 2, -1))
    half, all_of_it = shape.rotary_dim // 2, shape.rotary_dim
    neox = slice(0, half), slice(half, all_of_it)
    one, two = neox if shape.is_neox_style else (slice(0, all_of_it, 2), slice(1, all_of_it, 2))
    y = x.copy()
    y[..., one], y[..., two] = x[..., one] * cos - x[..., two] * sin, x[..., two] * cos + x[..., one] * sin
    return narrow(y).reshape(len(x), -1)


def run(shape, compiler, num_tokens, fresh, axes=""):
    """The kernel for so many tokens, run on one core for two full tiles and a tail; against numpy, bit for bit.

    With axes, a third of the cache's rows is for the positions of each, and has NaN in the lanes of the others.
    """
    from tests.ascend_kernels import our_kernel
    from tests.host_cann import chips, standalone

    made = our_kernel.kernel(shape, num_tokens, fresh, axes=axes)
    compiled = bishengir.compile(made.linalg, compiler, chips.current())
    assert compiled.ok, compiled.error
    assert (compiled.notes, compiled.ub_bytes <= made.ub_bytes) == ((), True), (compiled, made.ub_bytes)
    tokens = 2 * made.plan.block_tokens + 1
    random = np.random.default_rng(0)
    qkv = narrow(random.standard_normal((tokens, made.row)))
    cache = narrow(random.standard_normal((CACHE_ROWS, shape.rotary_dim)))
    positions = random.integers(0, CACHE_ROWS, tokens)
    rows = cache[positions]
    if axes:
        third, of_lane = CACHE_ROWS // 3, np.array(["thw".index(axis) for axis in 2 * axes])
        positions = random.integers(0, third, (3, tokens)) + np.arange(3)[:, None] * third
        rows = cache[positions[of_lane].T, np.arange(shape.rotary_dim)]
        for axis in range(3):
            cache[axis * third : (axis + 1) * third, of_lane != axis] = NAN
    ends = np.cumsum([shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size])
    q, k = qkv[:, : ends[0]], qkv[:, ends[0] : ends[1]]
    expected = [rotated(shape, x, rows) for x in (q, k)]
    outputs = [np.zeros(x.shape, np.uint16) for x in (q, k)] if fresh else []
    word = 2 if made.plan.in_words else 1  # elements in one unit of the kernel's strides
    strides = (shape.rotary_dim, *(2 * (made.row // word, shape.head_size // word)))
    numbers = (tokens, tokens * made.plan.units, CACHE_ROWS, *strides, *[tokens] * bool(axes))
    standalone.load(compiled.program).run(1, [q, k, *outputs, cache, positions, *numbers])
    for wanted, found in zip(expected, outputs or [q, k], strict=True):
        assert np.array_equal(wanted, found)


@by_each
@pytest.mark.parametrize(("num_tokens", "fresh"), [(1, False), (8192, True)], ids=["few, in place", "many, fresh"])
@pytest.mark.parametrize("model", ["GLM-4-9B", "ERNIE-4.5", "Llama-3.1-8B", "Phi-3-mini", "StableLM-3B"])
def test_exact_in_bf16(npu, compiler, model, num_tokens, fresh):
    (shape,) = (s for s in SHAPES if s.model == model)
    run(shape, compiler, num_tokens, fresh)


# Three positions a token: the heads of these models, and which pair turns by which.
MULTIMODAL = {
    "GLM-4.1V": (ModelShape("", 128, 64, 8, 2, False), "chunked", (8, 12, 12)),
    "Qwen3-VL": (ModelShape("", 128, 128, 8, 2), "interleaved", (24, 20, 20)),
    "ERNIE-4.5-VL": (ModelShape("", 128, 128, 5, 1, False), "alternating", (20, 22, 22)),
}


@by_each
@pytest.mark.parametrize(
    ("model", "num_tokens", "fresh"),
    [
        ("GLM-4.1V", 1, False),
        ("GLM-4.1V", 8192, True),
        ("Qwen3-VL", 1, True),
        ("Qwen3-VL", 8192, False),
        ("ERNIE-4.5-VL", 8192, True),
    ],
)
def test_three_positions_are_exact_and_what_a_lane_does_not_take_may_be_anything(
    npu, compiler, model, num_tokens, fresh
):
    shape, order, section = MULTIMODAL[model]
    run(shape, compiler, num_tokens, fresh, axes_of(section, order, shape.rotary_dim))
