"""PyTorch's operators on ``npu:0``: a named list computed by the CPU, everything else refused by name.

CANN's operator library is not here. Left to itself torch-npu would reach the runtime's stubs and fail, some way from
the call that asked. So each operator that torch-npu implements is one of three:

* ``KEPT``: storage, views and metadata; torch-npu's own code runs, over the host runtime;
* ``COMPUTED``: the operands are looked at as CPU tensors over the same memory, the CPU's operator runs on those, and a
  fresh result moves to the device. Strides, dtypes and in-place semantics are thus the CPU's;
* anything else raises ``NotImplementedError`` naming the operator.

A computed operator waits for the device first, so it sees everything submitted before it, and it fails during graph
capture as a synchronisation does, unless ``host_functions.py`` records it. Contiguous copies of one dtype stay
torch-npu's own, asynchronous and capturable.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

DEVICE_KEY = "PrivateUse1"

KEPT_NAMES = """
    empty.memory_format empty_strided empty_like empty_with_swapped_memory new_empty_strided as_strided as_strided_ view
    _reshape_alias resize_ set_ set_.source_Storage set_.source_Storage_storage_offset set_.source_Tensor
    record_stream is_pinned is_pinned.device pin_memory _pin_memory _local_scalar_dense unfold alias
    slice.Tensor select.int detach _copy_from_and_resize _has_compatible_shallow_copy_type squeeze squeeze.dim
    unsqueeze transpose.int permute expand t
"""

COMPUTED_NAMES = """
    copy_ _to_copy clone contiguous fill_.Scalar fill_.Tensor zero_ zeros zeros_like ones ones_like full full_like
    scalar_tensor arange arange.start arange.start_step linspace new_zeros new_ones new_full add.Tensor add.Scalar
    add_.Tensor add_.Scalar sub.Tensor sub.Scalar sub_.Tensor sub_.Scalar rsub.Scalar rsub.Tensor mul.Tensor
    mul.Scalar mul_.Tensor mul_.Scalar div.Tensor div.Scalar div_.Tensor div_.Scalar div.Tensor_mode floor_divide
    floor_divide.Scalar remainder.Scalar remainder.Tensor neg neg_ abs reciprocal sqrt rsqrt exp pow.Scalar
    pow.Tensor_Scalar pow.Tensor_Tensor cos sin clamp clamp_ minimum maximum round floor cat stack index_select
    index.Tensor gather embedding index_put_ _index_put_impl_ index_copy_ index_copy scatter.src scatter_.src
    where.self masked_fill.Scalar masked_fill_.Scalar masked_fill.Tensor repeat repeat_interleave.Tensor
    repeat_interleave.self_int roll flip eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor
    le.Scalar gt.Tensor gt.Scalar ge.Tensor ge.Scalar equal isclose all all.dim any any.dim isnan isfinite
    logical_and logical_or logical_not bitwise_and.Tensor bitwise_or.Tensor bitwise_not max min max.dim min.dim sum
    sum.dim_IntList mean mean.dim cumsum _unique2 masked_select nonzero ceil trunc sign isin.Tensor_Tensor sort topk
    argmax bmm mm matmul convolution gelu.out grid_sampler_2d normal_ uniform_ random_ random_.to
    random_.from randn rand randint randint.low randn_like rand_like
    _log_softmax argmax.out addmm argsort native_layer_norm cumsum.out
    _foreach_add.List _foreach_add.Scalar
"""

KEPT_NPU_NAMES = """
    get_npu_format copy_memory_ empty_with_format unsafe_empty_with_format empty_with_format.names get_storage_size
    npu_change_data_ptr npu_reshape npu_reshape.out
"""

COMPUTED = frozenset(COMPUTED_NAMES.split())
KEPT = {"aten": frozenset(KEPT_NAMES.split()), "npu": frozenset(KEPT_NPU_NAMES.split()), "atb": frozenset()}


Recorder = Callable[..., Any]


def recorder() -> Recorder | None:
    """Who records an operator that the CPU computes, while the stream keeps what it is given for a graph; replaced by
    ``host_functions.py``, and nobody without it."""
    return None


def host_view(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor with the same memory, shape and strides. The caller must have waited for the device."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    usable = storage.nbytes() // tensor.element_size() * tensor.element_size()
    flat = torch.frombuffer(memory, dtype=torch.uint8)[:usable].view(tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def to_device(value: Any) -> Any:
    """A CPU result, at home on the device with the same strides; what is no tensor stays as it is.

    The memory may be what another thread freed a moment ago, with a kernel that reads it still in torch-npu's queue. An
    operator of CANN's would come after that kernel; the host, which writes at once, has to wait for it.
    """
    if not isinstance(value, torch.Tensor):
        return value
    result = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="npu")
    torch.npu.synchronize()
    host_view(result).copy_(value)
    return result


def on_host(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor) and argument.device.type == "npu":
        return host_view(argument)
    if isinstance(argument, torch.device) and argument.type == "npu":
        return torch.device("cpu")
    return argument


def computed(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """``op`` for device tensors, computed by the CPU's ``op``."""
    writes = [a.name for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    names = [a.name for a in op._schema.arguments]

    def run(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        target = given.get("device")
        if record := recorder():
            kwargs.pop("pin_memory", None)
            return record(op, args, kwargs, given[writes[0]] if writes else None)
        torch.npu.synchronize()
        result = op(
            *tree_map(on_host, args), **{k: tree_map(on_host, v) for k, v in kwargs.items() if k != "pin_memory"}
        )
        if writes:
            return given[writes[0]]
        if target is not None and torch.device(target).type == "cpu":
            return result
        return tree_map(to_device, result)

    return run


def on_device(double: Callable[..., Any]) -> Callable[..., Any]:
    """``double``, written for CPU tensors, for device tensors: the same memory in; out, an argument that was updated in
    place as itself, anything else as a fresh device tensor. One that returns nothing only updates arguments; the
    operator then gives back its list ``out``, if it has one."""

    updates_only = double.__annotations__.get("return", double) is None

    def run(*args: Any, **kwargs: Any) -> Any:
        updated = tuple(kwargs["out"]) if isinstance(kwargs.get("out"), list) else ()
        if record := recorder():
            recorded = record(double, args, kwargs, updated if updates_only else None)
            return recorded or None if updates_only else recorded
        torch.npu.synchronize()
        given: dict[int, torch.Tensor] = {}

        def view(value: Any) -> Any:
            host = on_host(value)
            if host is not value:
                given[id(host)] = value
            return host

        host_args, host_kwargs = tree_map(view, args), tree_map(view, kwargs)
        result = double(*host_args, **host_kwargs)
        if updates_only:
            return updated or None
        return tree_map(lambda value: given[id(value)] if id(value) in given else to_device(value), result)

    return run


def copy_to(kernel: Any) -> Callable[..., Any]:
    """``copy_``: torch-npu's own where it is a plain move of bytes, the CPU's where CANN would have to compute."""
    by_cpu = computed(torch.ops.aten.copy_.default)

    def run(keys: Any, to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        plain = to.dtype == source.dtype and to.shape == source.shape and to.is_contiguous() and source.is_contiguous()
        if plain and to.numel():
            return kernel.call_boxed(keys, to, source, non_blocking)
        if to.device.type == "npu":
            return by_cpu(to, source, non_blocking)
        torch.npu.synchronize()
        to.copy_(host_view(source))
        return to

    return run


def refused(name: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"host CANN does not implement {name}")

    return run


_libraries: list[torch.library.Library] = []  # a library's registrations live as long as it does


def install(doubles: dict[str, Callable[..., Any]]) -> None:
    """Replace torch-npu's operators as this module's docstring says; ``doubles`` adds implementations by full name
    (``"npu::npu_rotary_mul"``). Once per process: a second call does nothing."""
    if _libraries:
        return
    libraries = {space: torch.library.Library(space, "IMPL") for space in ("aten", "npu", "atb")}
    _libraries.extend(libraries.values())
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        if space not in libraries or not torch._C._dispatch_has_kernel_for_dispatch_key(full, DEVICE_KEY):
            continue
        if full in doubles:
            function = doubles[full]
        elif name in KEPT[space]:
            continue
        elif full == "aten::copy_":
            kernel = torch.library.get_kernel(full, DEVICE_KEY)
            libraries[space].impl(name, copy_to(kernel), DEVICE_KEY, with_keyset=True, allow_override=True)
            continue
        elif space == "aten" and name in COMPUTED:
            packet, _, overload = name.partition(".")
            function = computed(getattr(getattr(torch.ops.aten, packet), overload or "default"))
        else:
            function = refused(full)
        libraries[space].impl(name, function, DEVICE_KEY, allow_override=True)
