"""The rotations that are modelled, their data, and what they must come to."""

import functools
from typing import NamedTuple

import numpy as np

ITEM = 2  # bf16
LINE = 512
CACHE_ROWS = 4096


class Case(NamedTuple):
    """A rotation of q and k in bf16, the cache too; strided tensors are slices of one qkv. With ``axes``, each pair of
    lanes turns by one of three positions (``rope_patch/kernels/orders.py``)."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    strided: bool = True
    axes: str = ""

    @property
    def row(self) -> int:
        """Elements from one token to the next, of a strided tensor."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    def least_bytes(self, num_tokens: int) -> int:
        """What any kernel must move: q and k in and out, whole heads into fresh outputs; cos and sin, positions."""
        width = self.head_size if self.strided and num_tokens > 1 else self.rotary_dim
        heads = (self.num_heads + self.num_kv_heads) * width * ITEM * 2
        return num_tokens * (heads + self.rotary_dim * ITEM + 8 * (3 if self.axes else 1))

    def copied_bytes(self, num_tokens: int) -> tuple[int, ...]:
        """Of the tensors that upstream and the seed make contiguous; one token's slice is contiguous already."""
        if not self.strided or num_tokens == 1:
            return ()
        return tuple(num_tokens * heads * self.head_size * ITEM for heads in (self.num_heads, self.num_kv_heads))


def zeros(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    """On a whole line, as torch-npu's memory is; untouched pages cost nothing."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + LINE, np.uint8)
    begin = -memory.ctypes.data % LINE
    return memory[begin : begin + size].view(dtype).reshape(shape)


def narrow(x: np.ndarray) -> np.ndarray:
    """fp32 as the bits of bf16, to nearest even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def wide(bits: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@functools.lru_cache(maxsize=4)
def cache(rotary_dim: int) -> np.ndarray:
    """Cosines, then sines, of every position: numbers of that size will do."""
    made = zeros(CACHE_ROWS, rotary_dim)
    made[:] = narrow(np.random.default_rng(1).uniform(-1, 1, made.shape))
    return made


def positions(case: Case, num_tokens: int) -> np.ndarray:
    made = zeros(*([3, num_tokens] if case.axes else [num_tokens]), dtype=np.int64)
    made[:] = np.random.default_rng(2).integers(0, CACHE_ROWS, made.shape)
    return made


def rotated(case: Case, x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """``x``, [tokens, heads, head_size], at those positions, in double precision."""
    half = case.rotary_dim // 2
    angles = wide(cache(case.rotary_dim)[at])
    if case.axes:  # [3, tokens, lanes]: each pair of lanes is of one axis
        angles = angles[list(map("thw".index, 2 * case.axes)), :, range(2 * half)].T
    cos, sin = angles[:, None, :half], angles[:, None, half:]
    step = (
        (slice(0, half), slice(half, 2 * half))
        if case.is_neox_style
        else (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
    )
    first, second, result = x[..., step[0]], x[..., step[1]], x.copy()
    result[..., step[0]], result[..., step[1]] = first * cos - second * sin, second * cos + first * sin
    return result
