"""Start the kernel: from checked tensors and a plan to one launch."""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from rope_patch.kernels import padded, rope, transposed
from rope_patch.kernels.axes import order_of
from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Plan, Shape, ceil_div

# TRITON_INTERPRET=1, read by Triton when the kernel was decorated: it runs on the CPU, in Python.
INTERPRETED = isinstance(rope.rotary_kernel, InterpretedFunction)

KIB = 1024
UNIFIED_BUFFER = 192 * KIB  # of one vector core, 910B1 to 910B4 and A3 (CANN's platform configuration files)


# How a plan calls pairs of these types that are whole 32-bit words.
WORDS = {torch.bfloat16: "bf16 words", torch.float16: "fp16 words"}


class Heads(NamedTuple):
    """q or k as the kernel sees it: where head h of token t begins, in elements."""

    tensor: torch.Tensor
    num_heads: int
    token_stride: int
    head_stride: int


@functools.cache
def device_facts(device: torch.device) -> Device:
    """What the plan needs to know of ``device``; asks the driver once, so the device must be initialised."""
    if INTERPRETED:  # small enough that ordinary tests cross tiles; and few programs, since each takes milliseconds
        return Device(MAX_TILE_OFFSET, tile_bytes=256 * KIB, powers_of_two=True)
    if device.type == "npu":
        properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
        cores = properties["num_vectorcore"]
        return Device(max_programs=cores, tile_bytes=UNIFIED_BUFFER, powers_of_two=False)
    # A proxy, for measurements only; plan_padded.py says where the numbers come from.
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return Device(
        max_programs=MAX_TILE_OFFSET,
        tile_bytes=32 * KIB,
        powers_of_two=True,
        stride_unit=16,
        busy_programs=processors,
    )


class Call(NamedTuple):
    """One rotation, its arguments checked by ``rope_patch.rotation.arguments``."""

    positions: torch.Tensor  # [num_tokens], contiguous, int32 or int64; with axes [3, num_tokens], rows contiguous
    query: Heads
    key: Heads | None
    cos_sin_cache: torch.Tensor  # [max_position, rotary_dim], rows contiguous
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    axes: str = ""  # which of three positions each pair of lanes turns by (``axes.py``); empty for one position

    @property
    def num_tokens(self) -> int:
        return self.positions.numel() // (3 if self.axes else 1)

    @property
    def whole_words(self) -> bool:
        """Whether every pair of lanes (2 i, 2 i + 1) of q and of k is an aligned 32-bit word."""
        both = (self.query, self.key or self.query)
        return self.query.tensor.element_size() == 2 and not any(
            self.head_size % 2 or heads.token_stride % 2 or heads.head_stride % 2 or heads.tensor.data_ptr() % 4
            for heads in both
        )

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the cache, q and k, as the kernel takes them."""
        return (self.cos_sin_cache.stride(0), *self.query[2:], *(self.key[2:] if self.key else (0, 0)))

    def shape(self, fresh: bool) -> Shape:
        """The part of the call that its plan follows from; ``fresh`` if it has an output tensor of its own."""
        query, key = self.query, self.key
        return Shape(
            num_heads=query.num_heads,
            num_kv_heads=key.num_heads if key else 0,
            head_size=self.head_size,
            rotary_dim=self.rotary_dim,
            is_neox_style=self.is_neox_style,
            token_stride=max(query.token_stride, key.token_stride if key else 0),
            itemsize=query.tensor.element_size(),
            cache_itemsize=self.cos_sin_cache.element_size(),
            fresh=fresh,
            words=WORDS[query.tensor.dtype] if not self.is_neox_style and self.whole_words else "",
            axes=self.axes,
        )


def stride_unit(call: Call, device: Device) -> int:
    """What the kernel's strides are divided by."""
    return 1 if any(stride % device.stride_unit for stride in call.strides) else device.stride_unit


def is_big(cos_sin_cache: torch.Tensor) -> bool:
    """Whether offsets into the cache would need 64 bits: ten million positions of rotary_dim 576, say."""
    return cos_sin_cache.shape[0] * cos_sin_cache.stride(0) > MAX_TILE_OFFSET


Constant = int | bool | str | None


def kernel_of(plan: Plan) -> Any:
    """The Triton kernel that a plan is for."""
    if plan.padded:
        return padded.rotary_kernel
    if plan.lanes:
        return transposed.rotary_kernel_transposed
    return rope.rotary_kernel_by_heads if plan.units else rope.rotary_kernel


def constants(shape: Shape, plan: Plan, stride_unit: int = 1) -> dict[str, Constant]:
    """The constexpr arguments of a plan's kernel, but for the output pointers, which tell in place from fresh."""
    heads: dict[str, Constant] = {
        "Q_HEADS": shape.num_heads,
        "K_HEADS": shape.num_kv_heads,
        "HEAD_SIZE": shape.head_size // 2 if plan.in_words else shape.head_size,
        "HALF": shape.rotary_dim // 2,
    }
    if found := order_of(shape.axes) if shape.axes else None:
        heads |= dict(zip(("ORDER", "H_PAIRS", "W_PAIRS"), found, strict=True))
    elif not shape.axes and not plan.lanes:
        heads["axis_stride"] = None  # not among the numbers then
    if plan.padded:
        return heads | {
            "IS_NEOX": shape.is_neox_style,
            "HALF_LANES": plan.half_lanes,
            "REST_LANES": plan.rest_lanes,
            "BLOCK_T": plan.block_tokens,
            "BLOCK_Q": plan.block_heads,
            "BLOCK_K": plan.block_kv_heads,
            "STRIDE_UNIT": stride_unit,
            "VECTOR": _cosines_at_once(shape),
        }
    if plan.lanes:
        count = ceil_div(shape.num_heads + shape.num_kv_heads, 16) * 16
        return heads | {"LANES": plan.lanes, "COUNT": count}
    heads |= {
        "PAIRS": plan.pairs,
        "WHOLE": plan.whole,
        "WIDE_ROWS": plan.wide_rows,
    }
    if not plan.units:
        heads |= {"OVERLAP": plan.overlap, "BY_HEAD": plan.by_head, "BLOCK_T": plan.block_tokens}
    return heads | {"BLOCK_Q": plan.block_heads, "BLOCK_K": plan.block_kv_heads}


def _cosines_at_once(shape: Shape) -> int:
    """How many cosines beside each other a CUDA thread needs: those of its lanes, which are 16 bytes; fewer where it
    would reach over from one axis into the next."""
    lanes = (16 if shape.is_neox_style else 8) // shape.itemsize  # half of 16 bytes of pairs are first lanes
    if not shape.axes:
        return lanes
    order, h, w = order_of(shape.axes) or ("", 0, 0)
    return math.gcd(lanes, shape.rotary_dim // 2 - h - w, h) if order == "chunked" else 1


Kernel = tuple[Constant, ...]  # its name, and the values of its constexpr arguments


class Launch(NamedTuple):
    """A launch worked out: everything but which memory."""

    function: Any  # the Triton kernel
    programs: int
    numbers: tuple[int, ...]  # the kernel's integer arguments; ``axis_stride`` is the last where there are axes
    constants: dict[str, Constant]

    @property
    def kernel(self) -> Kernel:
        """Which of the kernels of a signature it is."""
        return (self.function.__name__, *self.constants.values())

    def on(self, call: Call, query_out: torch.Tensor | None, key_out: torch.Tensor | None) -> Any:
        """Start it through Triton; returns Triton's compiled kernel (None from an interpreter)."""
        arguments = memory(call, query_out, key_out)
        if "words" in str(self.constants.get("PAIRS")):
            arguments = (*(x if x is None else triton.reinterpret(x, tl.int32) for x in arguments[:4]), *arguments[4:])
        return self.function[(self.programs,)](*arguments, *self.numbers, **self.constants)


def memory(call: Call, query_out: Any, key_out: Any) -> tuple[Any, ...]:
    """The kernel's first arguments."""
    return (call.query.tensor, call.key and call.key.tensor, query_out, key_out, call.cos_sin_cache, call.positions)


def planned(call: Call, shape: Shape, plan: Plan, device: Device) -> Launch:
    """The launch of at least one token by ``plan``."""
    cache, num_tokens = call.cos_sin_cache, call.num_tokens
    if num_tokens < plan.least_tokens:
        raise ValueError(f"a plan for {plan.least_tokens} tokens and more; got {num_tokens}")
    strides, unit = call.strides, stride_unit(call, device)
    programs, per_program = plan.grid(num_tokens, device)
    units = (unit, *(4 * [2 if plan.in_words else unit]))
    numbers = (num_tokens, per_program, cache.shape[0], *(s // u for s, u in zip(strides, units, strict=True)))
    if call.axes:
        numbers += (call.positions.stride(0),)
    return Launch(kernel_of(plan), programs, numbers, constants(shape, plan, unit))
