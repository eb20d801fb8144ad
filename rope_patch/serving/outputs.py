"""Where results are written to: into a call's own tensors, or into new contiguous ones."""

import torch

from rope_patch.serving.call import Call, Tensors

NEVER = 0, 0


def new_tensors(call: Call) -> Tensors:
    """One for each result; None for what is in place, or missing."""
    device = call.device
    return tuple(new and torch.empty(new.shape, dtype=new.dtype, device=device) for new in call.results)


def clash(call: Call) -> tuple[int, int]:
    """Between which distances, in bytes from the first to the second of its two written tensors, they overlap and one
    of them is written in place."""
    if not call.in_place or len(call.written) < 2:
        return NEVER
    first, second = (0 if tensor is None else _span(tensor) for tensor in call.written)
    return (-second, first) if first and second else NEVER


def overlap(call: Call) -> bool:
    """Whether some memory would be written twice in place."""
    least, most = clash(call)
    a, b = (tensor.data_ptr() if most and tensor is not None else 0 for tensor in (*call.written, None, None)[:2])
    return least < b - a < most


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the start of a tensor's first element to the end of its last; 0 if it has no element."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + last) * tensor.element_size() if tensor.numel() else 0
