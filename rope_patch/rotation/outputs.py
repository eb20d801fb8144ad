"""Where query and key are rotated to: contiguous ones in place, others into new contiguous tensors."""

from typing import NamedTuple

import torch


class Outputs(NamedTuple):
    """The new tensors; None for a tensor that is rotated in place.

    ``spans`` are the extents of query and key in bytes if one of them is rotated in place, else zeros.
    """

    query: torch.Tensor | None
    key: torch.Tensor | None
    spans: tuple[int, int]


def outputs_of(query: torch.Tensor, key: torch.Tensor | None, always_fresh: bool) -> Outputs | None:
    """The outputs; None if query and key overlap, so that rotating in place would rotate some memory twice."""
    query_fresh = always_fresh or not query.is_contiguous()
    key_fresh = key is not None and (always_fresh or not key.is_contiguous())
    spans = (0, 0) if key is None or (query_fresh and key_fresh) else (_span(query), _span(key))
    q, k = query.data_ptr(), 0 if key is None else key.data_ptr()
    if q < k + spans[1] and k < q + spans[0]:
        return None
    query_out = _fresh(query) if query_fresh else None
    return Outputs(query_out, _fresh(key) if key is not None and key_fresh else None, spans)


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the start of a tensor's first element to the end of its last; 0 if it has no element."""
    apart = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + apart) * tensor.element_size() if tensor.numel() else 0


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty(tensor.shape)  # contiguous; for empty_like with a memory format torch-npu warns
