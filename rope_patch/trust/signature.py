"""The signature of a call: calls of one signature share kernels, so they share one first-use check."""

from dataclasses import replace

from rope_patch.kernels import catalogue
from rope_patch.kernels.call import Call, Shape
from rope_patch.kernels.launch import ALIGNMENT
from rope_patch.kernels.orders import order_of
from rope_patch.kernels.plan import Device
from rope_patch.kernels.planning import plans_of
from rope_patch.reporting.ledger import Signature


def signature_of(call: Call, shape: Shape, device: Device, query_in_place: bool, key_in_place: bool) -> Signature:
    """Everything that the compiled kernel depends on, except the number of tokens: one check tries all plans."""
    query, key, asked = call.query, call.key, call.rotation
    itemsize = query.tensor.element_size()
    unit = call.stride_unit(device)
    plans = plans_of(catalogue.ROTATION, shape, device)
    far = plans != plans_of(catalogue.ROTATION, replace(shape, token_stride=0), device)
    return (
        "neox" if asked.is_neox_style else "gpt-j" if call.whole_words or itemsize != 2 else "gpt-j of odd strides",
        query.tensor.dtype,
        f"heads {query.num_heads}/{key.num_heads if key else 0}",
        f"head_size {asked.head_size}",
        f"rotary_dim {asked.rotary_dim}",
        "query in place" if query_in_place else "query fresh",
        "no key" if key is None else "key in place" if key_in_place else "key fresh",
        f"cache {call.cos_sin_cache.dtype}",
        call.positions.dtype,
        *([f"axes {_axes(asked.axes)}"] if asked.axes else []),
        _alignment(call),
        *([f"strides of {unit}"] if unit > 1 else []),
        *([f"rows far apart, {plans[-1].block_tokens} tokens a tile"] if far else []),
        query.tensor.device,
    )


def _axes(axes: str) -> str:
    order = order_of(axes)
    return f"{order[0]} {axes.count('t')} {order[1]} {order[2]}" if order else axes


def _alignment(call: Call) -> str:
    tensors = (call.positions, call.cos_sin_cache, call.query.tensor, (call.key or call.query).tensor)
    unaligned = [str(i) for i, tensor in enumerate(tensors) if tensor.data_ptr() % ALIGNMENT]
    return f"unaligned {' '.join(unaligned)}" if unaligned else "aligned"
