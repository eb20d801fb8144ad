"""Plans for mainline Triton: blocks are powers of two, and masked.

On CUDA this is how the kernel is measured on an accelerator at all; a proxy. Its constants come from a sweep over tile
sizes, head blocks and warps on an H200, six shapes of ``scripts/bench``, 1 to 65,536 tokens: 1024 half lanes for each
128 threads were within 3% of the best for every shape with many tokens, half of that with few.
"""

import math

from rope_patch.kernels.plan import MAX_TILE_OFFSET, Device, Plan, Shape, units_of

BYTES_PER_HALF_LANE = 32  # two fp32 inputs, their products, and their results: registers, not memory
MOST_HEADS = 16


def steps(shape: Shape, device: Device) -> tuple[tuple[Plan, float], ...]:
    """See ``plan.make_plan``: tiles of one token while larger ones would leave the device idle, then the largest."""
    rows = max(1, device.tile_bytes // (BYTES_PER_HALF_LANE * _up(shape.rotary_dim // 2)))
    tokens = rows // _head_block(shape.num_heads, rows)
    tokens = min(tokens, _down(max(1, MAX_TILE_OFFSET // max(1, shape.token_stride) // 2)))
    full = _plan(shape, rows, tokens)
    return (_plan(shape, max(1, rows // 2), 1), device.busy_programs // full.units * tokens), (full, math.inf)


def _plan(shape: Shape, rows: int, tokens: int) -> Plan:
    block_heads = _head_block(shape.num_heads, rows // tokens)
    block_kv_heads = _head_block(shape.num_kv_heads, rows // tokens)
    return Plan(
        block_tokens=tokens,
        block_heads=block_heads,
        block_kv_heads=block_kv_heads,
        half_lanes=_up(shape.rotary_dim // 2),
        rest_lanes=_up(max(1, shape.head_size - shape.rotary_dim)),
        units=units_of(shape, block_heads, block_kv_heads),
        padded=True,
    )


def _head_block(heads: int, limit: int) -> int:
    """The block of at most ``limit`` heads that leaves the fewest lanes idle; the largest such."""
    blocks = [1 << i for i in range(_up(max(1, heads)).bit_length()) if 1 << i <= max(1, min(limit, MOST_HEADS))]
    return max(blocks, key=lambda block: (-(-(-heads // block) * block), block))


def _up(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _down(n: int) -> int:
    return 1 << max(n.bit_length() - 1, 0)
