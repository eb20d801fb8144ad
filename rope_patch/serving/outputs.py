"""Where results are written to: into a call's own tensors, or into new contiguous ones."""

from typing import NamedTuple

import torch

from rope_patch.serving.call import InPlace, Pair


class Outputs(NamedTuple):
    """The new tensors; None for what is written in place, or missing.

    ``spans`` are the extents of the two tensors in bytes if one of them is written in place, else zeros.
    """

    new: tuple[torch.Tensor | None, torch.Tensor | None]
    spans: tuple[int, int]


def outputs_of(written: Pair, in_place: InPlace) -> Outputs | None:
    """The outputs; None if the two overlap, so that some memory would be written twice in place."""
    first, second = written
    spans = (0, 0) if second is None or not any(in_place) else (_span(first), _span(second))
    a, b = first.data_ptr(), 0 if second is None else second.data_ptr()
    if a < b + spans[1] and b < a + spans[0]:
        return None
    # Contiguous; for empty_like with a memory format torch-npu warns.
    new = [None if at or x is None else x.new_empty(x.shape) for x, at in zip(written, in_place, strict=True)]
    return Outputs((new[0], new[1]), spans)


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the start of a tensor's first element to the end of its last; 0 if it has no element."""
    apart = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + apart) * tensor.element_size() if tensor.numel() else 0
