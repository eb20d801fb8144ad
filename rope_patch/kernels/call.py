"""A call of the rotation: what is asked, its tensors, and the facts that its plans follow from."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.orders import order_of
from rope_patch.kernels.plan import MAX_TILE_OFFSET, SCRATCH_BYTES, Constant, Device, Plan, ceil_div

# How a plan calls pairs of these types that are whole 32-bit words.
WORDS = {torch.bfloat16: "bf16 words", torch.float16: "fp16 words"}


class Rotation(NamedTuple):
    """What is asked of a rotation. A plain tuple, since comparing and hashing those is fast."""

    head_size: int
    rotary_dim: int
    is_neox_style: bool
    axes: str = ""  # which of three positions each pair of lanes turns by (``orders.py``); empty for one position


class Heads(NamedTuple):
    """q or k as the kernel sees it: where head h of token t begins, in elements."""

    tensor: torch.Tensor
    num_heads: int
    token_stride: int
    head_stride: int


@dataclass(frozen=True)
class Shape:
    """The facts of a call that decide its plan.

    ``token_stride`` is the larger one of q's and k's, in elements. ``itemsize`` and ``cache_itemsize`` are the bytes of
    an element of q and k, and of the cache. ``fresh`` says whether any output is a new tensor. ``words`` is "bf16
    words" or "fp16 words" where q and k are of that type and every GPT-J pair of lanes is an aligned 32-bit word.
    """

    rotation: Rotation
    num_heads: int
    num_kv_heads: int
    token_stride: int
    itemsize: int
    cache_itemsize: int
    fresh: bool
    words: str = ""

    @property
    def half(self) -> int:
        """How many pairs of lanes of a head turn."""
        return self.rotation.rotary_dim // 2

    def constants(self, lanes: int = 1) -> dict[str, Constant]:
        """What all kernels are told; they count sizes of heads in so many lanes."""
        asked = self.rotation
        found: dict[str, Constant] = {
            "Q_HEADS": self.num_heads,
            "K_HEADS": self.num_kv_heads,
            "HEAD_SIZE": asked.head_size // lanes,
            "HALF": self.half,
        }
        if not asked.axes:
            return found | {"axis_stride": None}  # not among the numbers then
        return found | dict(zip(("ORDER", "H_PAIRS", "W_PAIRS"), order_of(asked.axes) or (), strict=False))

    def units(self, block_heads: int, block_kv_heads: int) -> int:
        """How many blocks of heads a token has."""
        return ceil_div(self.num_heads, block_heads) + ceil_div(self.num_kv_heads, block_kv_heads)

    def tried_tokens(self, device: Device) -> int:
        """Tokens of the largest tile that the first-use check (``trust.trial``) can try within SCRATCH_BYTES.

        It needs room for one token more than the tile has, for fresh outputs, for rounded strides and for gaps between
        rows.
        """
        heads = [number for number in (self.num_heads, self.num_kv_heads) if number]
        rows = sum((2 if self.fresh else 1) * number + 1 for number in heads)
        head_stride = ceil_div(self.rotation.head_size, device.stride_unit) * device.stride_unit
        return max(1, SCRATCH_BYTES // (max(1, rows) * head_stride * self.itemsize) - 1)


class Call(NamedTuple):
    """One rotation, its arguments checked by ``rope_patch.rotation.arguments``."""

    positions: torch.Tensor  # [num_tokens], contiguous, int32 or int64; with axes [3, num_tokens], rows contiguous
    query: Heads
    key: Heads | None
    cos_sin_cache: torch.Tensor  # [max_position, rotary_dim], rows contiguous
    rotation: Rotation

    @property
    def num_tokens(self) -> int:
        return self.positions.numel() // (3 if self.rotation.axes else 1)

    @property
    def whole_words(self) -> bool:
        """Whether every pair of lanes (2 i, 2 i + 1) of q and of k is an aligned 32-bit word."""
        both = (self.query, self.key or self.query)
        return self.query.tensor.element_size() == 2 and not any(
            self.rotation.head_size % 2
            or heads.token_stride % 2
            or heads.head_stride % 2
            or heads.tensor.data_ptr() % 4
            for heads in both
        )

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the cache, q and k, as the kernel takes them."""
        return (self.cos_sin_cache.stride(0), *self.query[2:], *(self.key[2:] if self.key else (0, 0)))

    def stride_unit(self, device: Device) -> int:
        """What the kernel's strides are divided by."""
        return 1 if any(stride % device.stride_unit for stride in self.strides) else device.stride_unit

    def shape(self, fresh: bool) -> Shape:
        """The part of the call that its plan follows from; ``fresh`` if it has an output tensor of its own."""
        query, key = self.query, self.key
        return Shape(
            self.rotation,
            num_heads=query.num_heads,
            num_kv_heads=key.num_heads if key else 0,
            token_stride=max(query.token_stride, key.token_stride if key else 0),
            itemsize=query.tensor.element_size(),
            cache_itemsize=self.cos_sin_cache.element_size(),
            fresh=fresh,
            words=WORDS[query.tensor.dtype] if not self.rotation.is_neox_style and self.whole_words else "",
        )

    def memory(self, *outputs: Any) -> tuple[Any, ...]:
        """The kernel's first arguments; an output of None means in place."""
        return (self.query.tensor, self.key and self.key.tensor, *outputs, self.cos_sin_cache, self.positions)


def planned(call: Call, shape: Shape, plan: Plan, device: Device) -> Launch:
    """The launch of at least one token by ``plan``."""
    num_tokens = call.num_tokens
    if num_tokens < plan.least_tokens:
        raise ValueError(f"a plan for {plan.least_tokens} tokens and more; got {num_tokens}")
    unit = call.stride_unit(device)
    units = (unit, *(4 * [2 if plan.in_words else unit]))
    strides = (stride // by for stride, by in zip(call.strides, units, strict=True))
    numbers = (num_tokens, plan.grid(num_tokens, device)[1], call.cos_sin_cache.shape[0], *strides)
    if call.rotation.axes:
        numbers += (call.positions.stride(0),)
    words = 4 if plan.in_words else 0  # q, k and their outputs
    return Launch(plan.function, plan.grid(num_tokens, device)[0], numbers, plan.constants(shape, unit), words)


def is_big(cos_sin_cache: torch.Tensor) -> bool:
    """Whether offsets into the cache would need 64 bits: ten million positions of rotary_dim 576, say."""
    return cos_sin_cache.shape[0] * cos_sin_cache.stride(0) > MAX_TILE_OFFSET
