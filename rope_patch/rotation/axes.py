"""Which of a token's three positions each pair of lanes turns by, from a model's sections."""

import functools

import torch

from rope_patch.kernels.orders import lanes


@torch.compiler.assume_constant_result
def axes_of(section: tuple[int, ...] | None, order: str, rotary_dim: int) -> str:
    """The ``axes`` of ``rotary.serve`` for ``section``, the numbers of pairs of t, h and w; empty if they do not fit.

    ``order`` is "chunked", "interleaved" or "alternating": see ``kernels/orders.py``.
    """
    return _axes_of(section, order, rotary_dim)


@functools.lru_cache(maxsize=256)
def _axes_of(section: tuple[int, ...] | None, order: str, rotary_dim: int) -> str:
    if section is None or len(section) != 3 or min(section) < 0 or 2 * sum(section) != rotary_dim:
        return ""
    return lanes(order, rotary_dim // 2, section[1], section[2])
