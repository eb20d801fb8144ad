"""Start the kernel: from checked tensors and a plan to one launch."""

import functools
from typing import NamedTuple

import torch
import triton
from triton.runtime.interpreter import InterpretedFunction

from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Plan, Shape, make_plan
from rope_patch.kernels.rope import rotary_kernel

# TRITON_INTERPRET=1, read by Triton when the kernel was decorated: it runs on the CPU, in Python.
INTERPRETED = isinstance(rotary_kernel, InterpretedFunction)

KIB = 1024
UNIFIED_BUFFER = 192 * KIB  # of one vector core, 910B1 to 910B4 and A3 (CANN's platform configuration files)


class Heads(NamedTuple):
    """q or k as the kernel sees it: where head h of token t begins, in elements."""

    tensor: torch.Tensor
    num_heads: int
    token_stride: int
    head_stride: int


@functools.cache
def device_facts(device: torch.device) -> Device:
    """What the plan needs to know of ``device``; asks the driver once, so the device must be initialised."""
    mainline = "ascend" not in triton.backends.backends
    if INTERPRETED:  # small enough that ordinary tests cross tiles and programs, large enough for NumPy to be quick
        return Device(max_programs=2, tile_bytes=256 * KIB, powers_of_two=mainline)
    if device.type == "npu":
        properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
        return Device(max_programs=properties["num_vectorcore"], tile_bytes=UNIFIED_BUFFER, powers_of_two=False)
    # A proxy for measurements only: tiles of 2048 half lanes, 16 per thread of four warps, many small programs.
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return Device(max_programs=16 * processors, tile_bytes=72 * KIB, powers_of_two=True)


class Call(NamedTuple):
    """One rotation, its arguments checked by ``rope_patch.arguments``."""

    positions: torch.Tensor  # [num_tokens], contiguous, int32 or int64
    query: Heads
    key: Heads | None
    cos_sin_cache: torch.Tensor  # [max_position, rotary_dim], rows contiguous
    head_size: int
    rotary_dim: int
    is_neox_style: bool

    @property
    def shape(self) -> Shape:
        """The part of the call that its plan follows from."""
        query, key = self.query, self.key
        return Shape(
            num_heads=query.num_heads,
            num_kv_heads=key.num_heads if key else 0,
            head_size=self.head_size,
            rotary_dim=self.rotary_dim,
            token_stride=max(query.token_stride, key.token_stride if key else 0),
            half_row_bytes=self.rotary_dim // 2 * self.cos_sin_cache.element_size(),
        )


def is_wide(cos_sin_cache: torch.Tensor) -> bool:
    """Whether offsets into the cache need 64 bits: ten million positions of rotary_dim 576, say."""
    return cos_sin_cache.shape[0] * cos_sin_cache.stride(0) > MAX_TILE_OFFSET


def launch(call: Call, query_out: torch.Tensor | None, key_out: torch.Tensor | None, plan: Plan | None = None) -> None:
    """Rotate q and k into the contiguous ``*_out`` tensors, or in place where those are None.

    Zero tokens start nothing. ``plan`` is the one for the call's shape unless given.
    """
    positions, query, key, cache, head_size, rotary_dim, is_neox_style = call
    num_tokens = positions.numel()
    if num_tokens == 0:
        return
    device = device_facts(positions.device)
    plan = plan or make_plan(call.shape, num_tokens, device)
    programs, tokens_per_program = plan.grid(num_tokens, device)
    rotary_kernel[(programs,)](
        query.tensor,
        key.tensor if key else None,
        query_out,
        key_out,
        cache,
        positions,
        num_tokens,
        tokens_per_program,
        cache.shape[0],
        cache.stride(0),
        query.token_stride,
        query.head_stride,
        key.token_stride if key else 0,
        key.head_stride if key else 0,
        Q_HEADS=query.num_heads,
        K_HEADS=key.num_heads if key else 0,
        HEAD_SIZE=head_size,
        HALF=rotary_dim // 2,
        HALF_LANES=plan.half_lanes,
        REST_LANES=plan.rest_lanes,
        BLOCK_T=plan.block_tokens,
        BLOCK_Q=plan.block_heads,
        BLOCK_K=plan.block_kv_heads,
        IS_NEOX=is_neox_style,
        WIDE_CACHE=is_wide(cache),
        PADDED=plan.padded,
        TRUNCATING_CAST=INTERPRETED and query.tensor.dtype == torch.bfloat16,
    )
