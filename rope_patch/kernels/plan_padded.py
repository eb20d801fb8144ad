"""Plans for mainline Triton: blocks are powers of two, and masked.

CUDA is a proxy, to measure the kernel on an accelerator at all. The constants come from a sweep over tile sizes, blocks
of heads and warps on an H200, for the shapes of ``scripts/bench_gpu``. With many tokens, 1024 half lanes for 128
threads were within 4% of the best in every case; with few tokens, half as many were within the noise of the best.
"""

import math

from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Plan, Shape, tried_tokens, units_of

BYTES_PER_HALF_LANE = 32  # two fp32 inputs, their products, and their results: registers, not memory
MOST_HEADS = 8


def steps(shape: Shape, device: Device) -> tuple[tuple[Plan, float], ...]:
    """The plans, see ``planning``: tiles of one token if larger ones would leave the device idle, else the largest."""
    rows = max(1, device.tile_bytes // (BYTES_PER_HALF_LANE * _up(shape.rotary_dim // 2)))
    block_heads = _even_block(shape.num_heads, rows)
    most = min(tried_tokens(shape, device), MAX_TILE_OFFSET // max(1, shape.token_stride) // 2)
    tokens = min(rows // block_heads, _down(max(1, most)))
    full = _plan(shape, tokens, block_heads, _even_block(shape.num_kv_heads, rows // tokens))
    most = max(1, rows // 2)
    few = _plan(shape, 1, _wide_block(shape.num_heads, most), _wide_block(shape.num_kv_heads, most))
    return (few, device.busy_programs // full.units * tokens), (full, math.inf)


def _plan(shape: Shape, tokens: int, block_heads: int, block_kv_heads: int) -> Plan:
    return Plan(
        block_tokens=tokens,
        block_heads=block_heads,
        block_kv_heads=block_kv_heads,
        half_lanes=_up(shape.rotary_dim // 2),
        rest_lanes=_up(max(1, shape.head_size - shape.rotary_dim)),
        units=units_of(shape, block_heads, block_kv_heads),
        padded=True,
    )


def _wide_block(heads: int, most: int) -> int:
    """The block size that needs the fewest blocks for all heads; at most ``most``."""
    return min(_up(max(1, heads)), _down(min(most, MOST_HEADS)))


def _even_block(heads: int, most: int) -> int:
    """The block size, at most ``most``, that leaves the fewest heads masked; the largest of several."""
    blocks = [1 << i for i in range(_wide_block(heads, most).bit_length())]
    return max(blocks, key=lambda block: (-(-(-heads // block) * block), block))


def _up(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _down(n: int) -> int:
    return 1 << max(n.bit_length() - 1, 0)
