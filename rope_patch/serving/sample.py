"""Synthetic tensors, on which a kernel is tried."""

from typing import NamedTuple

import torch

from rope_patch.kernels.launch import ALIGNMENT

WORD = 4  # bytes


class NotNow(Exception):
    """A kernel cannot be tried now, for a reason other than itself, such as no memory for the synthetic tensors."""


class Sample(NamedTuple):
    """What is right for one result of a synthetic call, on the host."""

    name: str
    exact: torch.Tensor  # in fp64
    bound: torch.Tensor  # how far from it rounding explains


def placed(values: torch.Tensor, strides: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """``values`` on ``like``'s device, with these strides, and no better aligned than ``like`` is."""
    # If ``like`` begins at a whole word, so must this: kernels for 16-bit pairs depend on it.
    whole_words = like.data_ptr() % WORD == 0
    offset = 0 if like.data_ptr() % ALIGNMENT == 0 else max(1, WORD // values.element_size()) if whole_words else 1
    extent = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    memory = torch.empty(offset + extent, dtype=values.dtype, device=like.device)
    found = memory.as_strided(values.shape, strides, offset)
    found.copy_(values)
    return found
