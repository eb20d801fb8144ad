"""Which arguments a rotation takes, and what it answers to others; vLLM's tensor layouts as heads and strides.

The rules have two users. rope_patch's own op raises an error for arguments that they refuse. A patched call site counts
the reason and hands the call to the original.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_patch.kernels.launch import INTERPRETED
from rope_patch.kernels.orders import lanes, order_of
from rope_patch.kernels.plan import MAX_TILE_OFFSET
from rope_patch.operators.rotation import Heads, Rotation, RotationCall
from rope_patch.serving.memory import fault_of

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
INTEGERS = (torch.int32, torch.int64)
DEVICES = ("cpu",) if INTERPRETED else ("npu", "cuda")


@dataclass
class Unsupported:
    """Why the kernel cannot take a call: the type of the error, and what was expected."""

    error: type[Exception]
    expected: str

    def raised(self, **arguments: object) -> Exception:
        """The error to raise. It names what was expected and the arguments' values (dtype and layout of a tensor)."""
        values = ", ".join(f"{name}={_kind(value)}" for name, value in arguments.items())
        return self.error(f"expected {self.expected}; got {values}")


def _kind(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    return f"{value.dtype}{list(value.shape)} strides {value.stride()} on {value.device}"


def unsupported(
    positions: Tensor, query: Tensor, key: Tensor | None, cos_sin_cache: Tensor, rotation: Rotation
) -> Unsupported | None:
    """Why the kernel cannot take these arguments, judged by dtypes, devices and head dimensions; None if it can.

    Reads nothing that is symbolic while tracing. ``parse`` also looks at strides and the number of tokens.
    """
    head_size, rotary_dim, axes = rotation.head_size, rotation.rotary_dim, rotation.axes
    if query.dtype not in FLOATS:
        return Unsupported(TypeError, "query of float16, bfloat16 or float32")
    if key is not None and key.dtype != query.dtype:
        return Unsupported(TypeError, "key of query's dtype")
    if cos_sin_cache.dtype not in (query.dtype, torch.float32):
        return Unsupported(TypeError, "cos_sin_cache of query's dtype or float32")
    if positions.dtype not in INTEGERS:
        return Unsupported(TypeError, "positions of int32 or int64")
    if query.device.type not in DEVICES:
        return Unsupported(ValueError, f"tensors on {' or '.join(DEVICES)}")
    for tensor in (positions, cos_sin_cache, query if key is None else key):
        if tensor.device != query.device:
            return Unsupported(ValueError, "all tensors on query's device")
    if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > head_size:
        return Unsupported(ValueError, "an even rotary_dim from 2 to head_size")
    if cos_sin_cache.dim() != 2 or cos_sin_cache.shape[1] != rotary_dim or cos_sin_cache.shape[0] == 0:
        return Unsupported(ValueError, "cos_sin_cache of shape [max_position >= 1, rotary_dim]")
    token_dims = positions.dim()
    if axes:
        if len(axes) != rotary_dim // 2 or not _has_known_order(axes):
            return Unsupported(ValueError, "axes of rotary_dim // 2 letters t, h and w, in a known order")
        if token_dims < 2 or positions.shape[0] != 3:
            return Unsupported(ValueError, "positions of shape [3, ...] with axes")
        token_dims -= 1
    for tensor in (query, query if key is None else key):
        split = tensor.dim() == token_dims + 2  # [..., num_heads, head_size]
        if not split and tensor.dim() != token_dims + 1:
            return Unsupported(ValueError, "query and key with one or two dimensions more than positions")
        if tensor.shape[-1] != head_size if split else tensor.shape[-1] % head_size:
            layouts = "[..., num_heads * head_size] or [..., num_heads, head_size]"
            return Unsupported(ValueError, f"query and key of {layouts}")
    return None


@torch.compiler.assume_constant_result
def _has_known_order(axes: str) -> bool:
    return order_of(axes) is not None


def parse(
    positions: Tensor, query: Tensor, key: Tensor | None, cos_sin_cache: Tensor, rotation: Rotation, fresh: bool = False
) -> RotationCall | Unsupported:
    """The call as the kernel sees it, or why the kernel cannot take it. ``fresh``: nothing is in place."""
    fault = unsupported(positions, query, key, cos_sin_cache, rotation)
    if fault is not None:
        return fault
    head_size, axes = rotation.head_size, rotation.axes
    row = positions[0] if axes else positions
    for tensor in (query, query if key is None else key):
        if tensor.shape[: row.dim()] != row.shape:
            return Unsupported(ValueError, "as many tokens in query and key as in positions")
    if axes and positions.stride(0) > MAX_TILE_OFFSET // 2:
        return Unsupported(ValueError, f"positions of axes at most {MAX_TILE_OFFSET // 2} elements apart")
    if not row.is_contiguous() or cos_sin_cache.stride(1) != 1:
        return Unsupported(ValueError, "contiguous positions, and contiguous rows in cos_sin_cache")
    if cos_sin_cache.stride(0) > MAX_TILE_OFFSET:  # Triton would compile another kernel for a 64-bit stride
        return Unsupported(ValueError, f"cos_sin_cache with rows at most {MAX_TILE_OFFSET} elements apart")
    if cos_sin_cache.shape[0] * cos_sin_cache.stride(0) > MAX_TILE_OFFSET:  # ten million positions of 576 lanes, say
        return Unsupported(ValueError, f"cos_sin_cache that ends within {MAX_TILE_OFFSET} elements")
    q = heads_of(query, row.dim(), head_size)
    k = None if key is None else heads_of(key, row.dim(), head_size)
    if q is None or (k is None and key is not None):
        return Unsupported(ValueError, "query and key whose lanes are contiguous and whose tokens are evenly spaced")
    for heads in (q, k or q):
        width = (heads.num_heads - 1) * heads.head_stride + head_size
        if heads.head_stride < head_size or heads.token_stride < width:
            return Unsupported(ValueError, "query and key whose heads lie beside each other within their token's row")
        if heads.token_stride > MAX_TILE_OFFSET:
            return Unsupported(ValueError, f"query and key with rows at most {MAX_TILE_OFFSET} elements apart")
    for tensor in (query, query if key is None else key, positions, cos_sin_cache):
        if expected := fault_of(tensor):
            return Unsupported(TypeError, expected)
    are_fresh = fresh or not query.is_contiguous(), fresh or key is None or not key.is_contiguous()
    return RotationCall(positions, q, k, cos_sin_cache, rotation, are_fresh)


def heads_of(tensor: Tensor, token_dims: int, head_size: int) -> Heads | None:
    """Heads and strides of ``[tokens..., H * D]`` or ``[tokens..., H, D]``.

    None if one stride for tokens and one for heads do not describe the tensor. The stride of a dimension of size one
    does not matter, and PyTorch may report anything for it.
    """
    shape, stride = tensor.shape, tensor.stride()
    if tensor.dim() == token_dims + 2:
        num_heads, head_stride, lane_stride = shape[-2], stride[-2] if shape[-2] > 1 else head_size, stride[-1]
    else:
        num_heads, head_stride, lane_stride = shape[-1] // head_size, head_size, stride[-1]
    token_stride, tokens = num_heads * head_stride, 1
    for dim in reversed(range(token_dims)):
        if shape[dim] > 1:
            if tokens == 1:
                token_stride = stride[dim]
            elif stride[dim] != tokens * token_stride:
                return None
            tokens *= shape[dim]
    return Heads(tensor, num_heads, token_stride, head_stride) if lane_stride == 1 else None


@torch.compiler.assume_constant_result
def axes_of(section: tuple[int, ...] | None, order: str, rotary_dim: int) -> str:
    """A rotation's ``axes`` for a model's ``section``, the numbers of pairs of t, h and w; empty if they do not fit.

    ``order`` is "chunked", "interleaved" or "alternating": see ``kernels/orders.py``.
    """
    return _axes_of(section, order, rotary_dim)


@functools.lru_cache(maxsize=256)
def _axes_of(section: tuple[int, ...] | None, order: str, rotary_dim: int) -> str:
    if section is None or len(section) != 3 or min(section) < 0 or 2 * sum(section) != rotary_dim:
        return ""
    return lanes(order, rotary_dim // 2, section[1], section[2])
