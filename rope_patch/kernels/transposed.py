"""Ascend's kernel for halves of heads that are not whole blocks of the unified buffer (StableLM: 10 lanes of 80).

A vector instruction begins at a whole block of 32 bytes, so the second half of such a head cannot be cut off in there;
and moving each half by itself takes bursts of a few bytes, for each of which memory moves 128. So whole heads are
moved, the lanes that are rotated become rows, where every lane begins a block, and become lanes again. That takes the
scalar unit some thirty register settings for every 16 lanes, however many heads there are: hence q and k together.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl

from rope_patch.kernels.arithmetic import NUMBERS, row_offset, turned
from rope_patch.kernels.ascend import BLOCK_BYTES, KERNEL_BYTES, AscendPlan, memory_traffic, padded
from rope_patch.kernels.plan import Constant, Device, ceil_div
from rope_patch.kernels.shape import Shape

# So many 16-bit lanes are a block of 32 bytes, and are transposed at once.
AT_ONCE = 16
# Cycles for a token: all but the transposing, and that for every 16 lanes, there and back.
TOKEN, TRANSPOSING = 480, 330


# Arguments stay grouped by what they are about, not one a line.
# fmt: off
@triton.jit
def _turned_rows(lanes, cos, sin, HALF: tl.constexpr):
    """``[heads, lanes]``, of which the first ``2 * HALF`` lanes are rotated; ``cos`` and ``sin`` are ``[HALF, 1]``."""
    COUNT: tl.constexpr = lanes.shape[0]
    rows = tl.trans(lanes)
    x1 = tl.extract_slice(rows, (0, 0), (HALF, COUNT), (1, 1)).to(tl.float32)
    x2 = tl.extract_slice(rows, (HALF, 0), (HALF, COUNT), (1, 1)).to(tl.float32)
    y1, y2 = turned(x1, x2, cos, sin, PRODUCTS_FIRST=True)
    rows = tl.insert_slice(rows, y1.to(lanes.dtype), (0, 0), (HALF, COUNT), (1, 1))
    rows = tl.insert_slice(rows, y2.to(lanes.dtype), (HALF, 0), (HALF, COUNT), (1, 1))
    return tl.trans(rows)


@triton.jit(do_not_specialize=NUMBERS)
def rotary_kernel_transposed(q_ptr, k_ptr, q_out_ptr, k_out_ptr, cache_ptr, positions_ptr, num_tokens, per_program,
                             cache_rows, cache_stride, q_token_stride, q_head_stride, k_token_stride, k_head_stride,
                             axis_stride, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
                             HALF: tl.constexpr, LANES: tl.constexpr, COUNT: tl.constexpr):
    """Program p rotates tokens ``[p * per_program, (p + 1) * per_program)``, one after the other.

    ``LANES`` lanes of each head become rows: at least ``2 * HALF``, in whole blocks. ``COUNT`` heads (those of q, of k,
    and some of zeros) are whole blocks too: what transposes them reads whole blocks, which must have been written.
    """
    lane = tl.arange(0, HEAD_SIZE)[None, :]
    begin = tl.program_id(0) * per_program
    for token in range(begin, tl.minimum(begin + per_program, num_tokens)):
        row = row_offset(tl.load(positions_ptr + token), cache_rows, cache_stride)
        cos = tl.load(cache_ptr + row + tl.arange(0, HALF)[:, None]).to(tl.float32)
        sin = tl.load(cache_ptr + row + HALF + tl.arange(0, HALF)[:, None]).to(tl.float32)
        q = q_ptr + token * q_token_stride.to(tl.int64) + tl.arange(0, Q_HEADS)[:, None] * q_head_stride + lane
        q_heads = tl.load(q)
        q_lanes = tl.extract_slice(q_heads, (0, 0), (Q_HEADS, LANES), (1, 1))
        lanes = tl.insert_slice(tl.zeros((COUNT, LANES), q_lanes.dtype), q_lanes, (0, 0), (Q_HEADS, LANES), (1, 1))
        if K_HEADS > 0:
            k = k_ptr + token * k_token_stride.to(tl.int64) + tl.arange(0, K_HEADS)[:, None] * k_head_stride + lane
            k_heads = tl.load(k)
            k_lanes = tl.extract_slice(k_heads, (0, 0), (K_HEADS, LANES), (1, 1))
            lanes = tl.insert_slice(lanes, k_lanes, (Q_HEADS, 0), (K_HEADS, LANES), (1, 1))
        lanes = _turned_rows(lanes, cos, sin, HALF)
        q_lanes = tl.extract_slice(lanes, (0, 0), (Q_HEADS, LANES), (1, 1))
        q_heads = tl.insert_slice(q_heads, q_lanes, (0, 0), (Q_HEADS, LANES), (1, 1))
        if q_out_ptr is None:
            tl.store(q, q_heads)
        else:
            q_to = q_out_ptr + token * tl.full((), Q_HEADS * HEAD_SIZE, tl.int64)
            tl.store(q_to + tl.arange(0, Q_HEADS)[:, None] * HEAD_SIZE + lane, q_heads)
        if K_HEADS > 0:
            k_lanes = tl.extract_slice(lanes, (Q_HEADS, 0), (K_HEADS, LANES), (1, 1))
            k_heads = tl.insert_slice(k_heads, k_lanes, (0, 0), (K_HEADS, LANES), (1, 1))
            if k_out_ptr is None:
                tl.store(k, k_heads)
            else:
                k_to = k_out_ptr + token * tl.full((), K_HEADS * HEAD_SIZE, tl.int64)
                tl.store(k_to + tl.arange(0, K_HEADS)[:, None] * HEAD_SIZE + lane, k_heads)
# fmt: on


@dataclass(frozen=True)
class Transposed(AscendPlan):
    """All heads of one token after the other; ``lanes`` of each become rows."""

    function = rotary_kernel_transposed
    block_tokens = units = 1

    lanes: int

    @classmethod
    def candidates(cls, shape: Shape, device: Device) -> Iterable["Transposed"]:
        """One, for fresh outputs of heads whose halves are not whole blocks."""
        asked = shape.rotation
        plan = cls(lanes=ceil_div(asked.rotary_dim, AT_ONCE) * AT_ONCE)
        narrow = shape.half * shape.itemsize % BLOCK_BYTES
        whole = asked.head_size * shape.itemsize % BLOCK_BYTES == 0
        takes = shape.num_heads and shape.fresh and not asked.axes and asked.is_neox_style
        if takes and narrow and whole and plan.lanes <= asked.head_size and plan.fits(shape, device):
            yield plan

    def constants(self, shape: Shape, stride_unit: int = 1) -> dict[str, Constant]:
        return shape.constants() | {"LANES": self.lanes, "COUNT": _rows(shape)}

    def need(self, shape: Shape) -> int:
        """Whole heads, twice; their lanes and rows, of q, of k and of both; fp32; cosines, of which each takes a
        block."""
        heads, rows = shape.num_heads + shape.num_kv_heads, _rows(shape)
        copies = 5 if shape.num_kv_heads or heads < rows else 2
        lanes = copies * self.lanes * rows * shape.itemsize
        moved = 2 * heads * padded(shape.rotation.head_size, shape.itemsize)
        return KERNEL_BYTES + moved + lanes + 3 * shape.half * rows * 4 + 8 * shape.half * BLOCK_BYTES

    def work(self, shape: Shape, device: Device) -> tuple[float, float]:
        size = shape.rotation.head_size * shape.itemsize
        moved = (heads * size for heads in (shape.num_heads, shape.num_kv_heads) if heads)
        return TOKEN + TRANSPOSING * self.lanes / AT_ONCE, sum(memory_traffic(all_of, all_of) for all_of in moved)


def _rows(shape: Shape) -> int:
    """Heads of q and k together, in whole blocks."""
    return ceil_div(shape.num_heads + shape.num_kv_heads, AT_ONCE) * AT_ONCE
