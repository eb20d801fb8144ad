"""Where results are written to: into a call's own tensors, or into new contiguous ones."""

from itertools import combinations

import torch

from rope_patch.serving.call import Call, Tensors

# The numbers of two tensors, and their extents in bytes.
Two = tuple[int, int, int, int]


def new_tensors(call: Call) -> Tensors:
    """One for each result; None for what is in place, or missing."""
    device = call.device
    return tuple(new and torch.empty(new.shape, dtype=new.dtype, device=device) for new in call.results)


def apart(call: Call) -> tuple[Two, ...]:
    """Those of its written tensors that must not overlap, since one of the two is written in place."""
    spans = [0 if tensor is None else _span(tensor) for tensor in call.written]
    in_place = [new is None for new in call.results]
    return tuple(
        (i, j, spans[i], spans[j])
        for i, j in combinations(range(len(spans)), 2)
        if spans[i] and spans[j] and (in_place[i] or in_place[j])
    )


def overlap(call: Call) -> bool:
    """Whether some memory would be written twice in place."""
    at = [0 if tensor is None else tensor.data_ptr() for tensor in call.written]
    return any(at[i] < at[j] + span_j and at[j] < at[i] + span_i for i, j, span_i, span_j in apart(call))


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the start of a tensor's first element to the end of its last; 0 if it has no element."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + last) * tensor.element_size() if tensor.numel() else 0
