"""Small kernels with known answers, for the tests of the host CANN itself."""

import triton
import triton.language as tl


@triton.jit
def add_one(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0) + 1, mask=at < n)


@triton.jit
def copy_rows(x_ptr, y_ptr, rows, stride, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A tile of ROWS x WIDTH per program and iteration; no arithmetic."""
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        at = (first + tl.arange(0, ROWS))[:, None] * stride + tl.arange(0, WIDTH)[None, :]
        tl.store(y_ptr + at, tl.load(x_ptr + at))


@triton.jit
def every_second(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Reads with a stride of two, which the vendor warns of."""
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + 2 * at))


@triton.jit
def multiply_add(x_ptr, y_ptr, z_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(z_ptr + at, tl.load(x_ptr + at) * tl.load(y_ptr + at) + tl.load(z_ptr + at))


@triton.jit
def write_at(x_ptr, place, BLOCK: tl.constexpr):
    tl.store(x_ptr + place + tl.arange(0, BLOCK), tl.full((BLOCK,), 1.0, tl.float32))


@triton.jit
def indirect(x_ptr, y_ptr, index_ptr, BLOCK: tl.constexpr):
    """Reads a scalar from global memory, then the row with that number."""
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + tl.load(index_ptr) * BLOCK + at))


@triton.jit
def double(x_ptr, BLOCK: tl.constexpr):
    """Its name is a keyword of C."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at) * 2)


@triton.jit
def divide(x_ptr, by, BLOCK: tl.constexpr):
    """By a scalar, which the library spreads in a buffer of its own first."""
    at = tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at) / by)
