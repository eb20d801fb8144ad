"""Whether the addresses of a tensor's elements hold its values, as a kernel that is started on addresses believes.

It is asked once for a layout, since asking takes longer than the launch; of a tensor of a cached layout only what its
address tells. In vLLM that is enough: torch-npu makes private formats of weights, on request, and a neg bit comes with
the strides of a complex tensor's imaginary part, which no kernel takes. What else could have one (``torch._neg_view``)
is noticed where gradients are enabled (``contract.serve``).
"""

import sys

import torch

NO_MEMORY = "tensors with memory of their own, not sparse ones, those of a transform, or those whose memory was freed"
NEGATED = "tensors whose memory holds their values, not the negated ones (a neg bit)"
PRIVATE = "tensors in plain row-major memory, not in one of torch-npu's private formats"
NPU = "npu"
LINEAR = (0, 2)  # ACL_FORMAT_NCHW and ACL_FORMAT_ND
# No tensor's memory lies below this address. What was freed begins at 0, and a view of that at the view's offset.
LOWEST = 2**24


def fault_of(tensor: torch.Tensor) -> str | None:
    """What was expected of a tensor that a kernel cannot read or write by its addresses; None for any other."""
    if tensor.numel() and not _has_memory(tensor):
        return NO_MEMORY
    if tensor.is_neg():  # no tensor of real numbers has a conj bit
        return NEGATED
    return PRIVATE if _is_private(tensor) else None


def _has_memory(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
    return storage.data_ptr() != 0 and storage.nbytes() >= needed


def _is_private(tensor: torch.Tensor) -> bool:
    """Whether torch-npu keeps it in another order, FRACTAL_NZ say: its shape and strides are those of the plain one."""
    format_of = getattr(sys.modules.get("torch_npu"), "get_npu_format", None) if tensor.device.type == NPU else None
    return format_of is not None and int(format_of(tensor)) not in LINEAR
