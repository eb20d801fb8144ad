"""Executes our kernels as each version of the compiler makes them; they are exact with all of them.

Programs of 1.0.0 (CANN 8.5) run with a later library of vector functions; ``hivmc/__init__.py`` says how.
"""

import numpy as np
import pytest

from tests.host_cann.fixture import needs_build
from tests.shapes import SHAPES

bishengir = pytest.importorskip("tests.host_cann.bishengir")
pytestmark = [needs_build, pytest.mark.skipif(not bishengir.installed(), reason=bishengir.MISSING)]
by_each = pytest.mark.parametrize("compiler", bishengir.installed(), ids=str)
CACHE_ROWS = 64


def narrow(x):
    """fp32 to bf16, to nearest even, as its bits."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def wide(bits):
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def rotated(shape, x, cache, positions):
    """``x`` ``[num_tokens, num_heads * head_size]`` as bf16 bits, rotated in fp32 and rounded once."""
    x = wide(x).reshape(len(x), -1, shape.head_size)
    cos, sin = (wide(half)[:, None] for half in np.split(cache[positions], 2, -1))
    half, all_of_it = shape.rotary_dim // 2, shape.rotary_dim
    neox = slice(0, half), slice(half, all_of_it)
    one, two = neox if shape.is_neox_style else (slice(0, all_of_it, 2), slice(1, all_of_it, 2))
    y = x.copy()
    y[..., one], y[..., two] = x[..., one] * cos - x[..., two] * sin, x[..., two] * cos + x[..., one] * sin
    return narrow(y).reshape(len(x), -1)


@by_each
@pytest.mark.parametrize("fresh", [False, True], ids=["in place", "fresh"])
@pytest.mark.parametrize("num_tokens", [1, 8192], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("model", ["GLM-4-9B", "ERNIE-4.5", "Llama-3.1-8B", "Phi-3-mini", "StableLM-3B"])
def test_exact_in_bf16(npu, compiler, model, num_tokens, fresh):
    from tests.host_cann import chips, our_kernel, standalone

    (shape,) = (s for s in SHAPES if s.model == model)
    made = our_kernel.kernel(shape, num_tokens, fresh)
    program = bishengir.compile(made.linalg, compiler, chips.current()).program
    tokens = 2 * made.plan.block_tokens + 1  # two full tiles and a tail, on one core
    random = np.random.default_rng(0)
    qkv = narrow(random.standard_normal((tokens, made.row)))
    cache = narrow(random.standard_normal((CACHE_ROWS, shape.rotary_dim)))
    positions = random.integers(0, CACHE_ROWS, tokens)
    ends = np.cumsum([shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size])
    q, k = qkv[:, : ends[0]], qkv[:, ends[0] : ends[1]]
    expected = [rotated(shape, x, cache, positions) for x in (q, k)]
    outputs = [np.zeros(x.shape, np.uint16) for x in (q, k)] if fresh else []
    word = 2 if made.plan.in_words else 1  # elements in one unit of the kernel's strides
    strides = (shape.rotary_dim, *(2 * (made.row // word, shape.head_size // word)))
    numbers = (tokens, tokens * max(1, made.plan.units), CACHE_ROWS, *strides)
    standalone.load(program).run(1, [q, k, *outputs, cache, positions, *numbers])
    for wanted, found in zip(expected, outputs or [q, k], strict=True):
        assert np.array_equal(wanted, found)
