"""Which tensors norm and rotation take, and what they answer to others."""

from torch import Tensor

from rope_patch.kernels.orders import order_of
from rope_patch.kernels.plan import MAX_TILE_OFFSET
from rope_patch.operators.arguments import DEVICES, FLOATS, INTEGERS, Unsupported
from rope_patch.operators.norm_inputs import Angles, NormRotation, Tensors
from rope_patch.operators.norm_rotation import NormRotationCall
from rope_patch.serving.memory import fault_of


def parse(tensors: Tensors, angles: Angles, asked: NormRotation) -> NormRotationCall | Unsupported:
    """The call as kernels see it, or why they cannot take it."""
    qkv, head_size, rotary_dim = tensors.qkv, asked.head_size, asked.rotary_dim
    given = [one for one in (*tensors, *angles) if one is not None]
    if qkv.dtype not in FLOATS:
        return Unsupported(TypeError, "qkv of float16, bfloat16 or float32")
    if qkv.device.type not in DEVICES:
        return Unsupported(ValueError, f"tensors on {' or '.join(DEVICES)}")
    if any(one.device != qkv.device for one in given):
        return Unsupported(ValueError, "all tensors on qkv's device")
    if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > head_size:
        return Unsupported(ValueError, "an even rotary_dim from 2 to head_size")
    if asked.num_heads < 1 or asked.num_kv_heads < 1:
        return Unsupported(ValueError, "heads of q and of k")
    lanes = (asked.num_heads * (1 if tensors.gate is None else 2) + 2 * asked.num_kv_heads) * head_size
    if qkv.dim() != 2 or qkv.shape[1] != lanes:
        return Unsupported(ValueError, f"qkv of shape [num_tokens, {lanes}]")
    if qkv.stride(1) != 1 or not lanes <= qkv.stride(0) <= MAX_TILE_OFFSET:
        return Unsupported(ValueError, "qkv whose lanes are contiguous, and whose rows do not overlap")
    fault = _fault_of_results(tensors, asked) or _fault_of_weights(tensors, asked)
    found = fault or _laid_out(angles, asked, qkv)
    if not isinstance(found, Angles):
        return found
    for one in given:
        if expected := fault_of(one):
            return Unsupported(TypeError, expected)
    return NormRotationCall(tensors, found, asked)


def _fault_of_results(tensors: Tensors, asked: NormRotation) -> Unsupported | None:
    for result, heads in zip(tensors[1:5], (asked.num_heads, *[asked.num_kv_heads] * 2, asked.num_heads), strict=True):
        shape = len(tensors.qkv), heads * asked.head_size
        if result is not None and (result.dtype != tensors.qkv.dtype or result.shape != shape):
            return Unsupported(ValueError, "results of qkv's dtype, [num_tokens, num_heads * head_size]")
        if result is not None and not result.is_contiguous():
            return Unsupported(ValueError, "contiguous results")
        if result is not None and _overlap(result, tensors.qkv):
            return Unsupported(ValueError, "results that share no memory with qkv")
    return None


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Of rows of contiguous lanes."""
    begin, end = zip(*((x.data_ptr(), x.data_ptr() + _span(x)) for x in (one, other)), strict=True)
    return max(begin) < min(end)


def _span(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    if not tensor.numel():
        return 0
    return ((len(tensor) - 1) * tensor.stride(0) + tensor.shape[1]) * tensor.element_size()


def _fault_of_weights(tensors: Tensors, asked: NormRotation) -> Unsupported | None:
    if (tensors.q_bias is None) != (tensors.k_bias is None):
        return Unsupported(ValueError, "biases of q and k, or none")
    for one in tensors[5:]:
        if one is not None and (one.dtype not in FLOATS or one.shape != (asked.head_size,) or not one.is_contiguous()):
            return Unsupported(ValueError, "contiguous weights and biases of head_size numbers")
    return None


def _laid_out(angles: Angles, asked: NormRotation, qkv: Tensor) -> Angles | Unsupported:
    """The angles as ``NormRotationCall`` has them. Where there are more rows than tokens, the first ones count."""
    cos, sin, positions = angles
    num_tokens, rotary_dim, axes = len(qkv), asked.rotary_dim, asked.axes
    if axes and (len(axes) != rotary_dim // 2 or order_of(axes) is None):
        return Unsupported(ValueError, "axes of rotary_dim // 2 letters t, h and w, in a known order")
    if any(one is not None and one.dtype not in (qkv.dtype, *FLOATS[2:]) for one in (cos, sin)):
        return Unsupported(TypeError, "cosines and sines of qkv's dtype or float32")
    if sin is not None and sin.dtype != cos.dtype:
        return Unsupported(TypeError, "cosines and sines of one dtype")
    if positions is None:
        return _gathered(cos, sin, num_tokens, asked)
    if positions.dtype not in INTEGERS:
        return Unsupported(TypeError, "positions of int32 or int64")
    if sin is not None or cos.dim() != 2 or cos.shape[1] != rotary_dim or not len(cos) or cos.stride(1) != 1:
        return Unsupported(ValueError, "a cache of shape [max_position >= 1, rotary_dim], its rows contiguous")
    if len(cos) * cos.stride(0) > MAX_TILE_OFFSET:
        return Unsupported(ValueError, f"a cache that ends within {MAX_TILE_OFFSET} elements")
    if positions.dim() != (2 if axes else 1) or (axes and len(positions) != 3) or positions.shape[-1] < num_tokens:
        return Unsupported(ValueError, "positions of shape [num_tokens], or [3, num_tokens] with axes")
    if positions.stride(-1) != 1 or (axes and positions.stride(0) > MAX_TILE_OFFSET // 2):
        return Unsupported(ValueError, f"contiguous positions, of axes at most {MAX_TILE_OFFSET // 2} elements apart")
    return Angles(cos, None, positions[..., :num_tokens])


def _gathered(cos: Tensor, sin: Tensor | None, num_tokens: int, asked: NormRotation) -> Angles | Unsupported:
    """Those of 0.13 are ``[1, num_tokens, 1, rotary_dim]``."""
    if asked.axes:
        fits = sin is None and cos.shape == (3, num_tokens, asked.rotary_dim) and cos.is_contiguous()
        found = Angles(cos, None, None)
    else:
        both = [one for one in (cos, sin) if one is not None]
        fits = all(
            one.is_contiguous() and one.shape[-1:] == (asked.rotary_dim,) and one.numel() >= num_tokens * one.shape[-1]
            for one in both
        )
        rows = [one.view(-1, asked.rotary_dim)[:num_tokens] for one in both] if fits else []
        found = Angles(rows[0], rows[1] if len(rows) > 1 else None, None) if fits else Angles(cos, None, None)
    if not fits:
        return Unsupported(
            ValueError, "a row of cosines and sines for each token, [3, num_tokens, rotary_dim] with axes"
        )
    return found
