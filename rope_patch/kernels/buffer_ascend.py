"""What a plan takes of the unified buffer, as Huawei's compilers lay it out.

Two buffers for whatever is loaded or stored, so that one moves while the other is worked on, and fp32 in between. The
numbers of buffers below were read off what bishengir-compile 1.0.0, 1.1.0 and 1.2.0 report of 512 random plans of the
shapes of tests/shapes.py. Over the kernels of ``scripts/census`` the sum is never below what a compiler reports, and in
the median at most a sixth above.

A compiler that runs out of space lets buffers share it: those of q with those of k, those of full tiles with those of
the masked one, which are at work one after the other. Its steps then wait for each other, but what one block of one
tensor needs must fit: in a census of plans that asked for up to one and a half times the buffer, all that overflowed
were such. Three positions a token need their rows before the heads only: of 52 random plans, in a search that is not
kept, all that overflowed were such too.
"""

from rope_patch.kernels.plan import Device, Plan, Shape, ceil_div

# The last axis of a tile in the unified buffer is padded to whole blocks, and slices of it must begin at one.
BLOCK_BYTES = 32
# More for three positions a token: their shares, rows, and what is selected of them. Read off the models' of
# tests/kernels/test_axes.py.
AXES_ONCE, AXES_ROWS, AXES_SELECTED = 8, 8, 6
# Positions, rows and their masks of each token; what there is once in a kernel.
TOKEN_BYTES, KERNEL_BYTES = 64, 512


def fits(plan: Plan, shape: Shape, device: Device) -> bool:
    if plan.lanes:
        return _transposed_bytes(plan, shape) <= device.tile_bytes
    turning = _bytes(plan, shape, max(plan.block_heads, plan.block_kv_heads))
    return max(turning, _bytes(plan, shape, 0) + _axes_bytes(plan, shape)) <= device.tile_bytes


def bytes_of(plan: Plan, shape: Shape, device: Device) -> int:
    return min(_all_bytes(plan, shape), device.tile_bytes)


def shares(plan: Plan, shape: Shape, device: Device) -> bool:
    """Whether buffers have to share space."""
    return _all_bytes(plan, shape) > device.tile_bytes


def _all_bytes(plan: Plan, shape: Shape) -> int:
    if plan.lanes:
        return _transposed_bytes(plan, shape)
    # The masked tile at the end is laid out beside the full ones. (Of one fresh output and one in place too, which have
    # it although tiles may overlap: then more buffers share space than this says.)
    tiles = 2 if plan.block_tokens > 1 and not plan.overlap else 1
    heads = plan.block_heads + (plan.block_kv_heads if shape.num_kv_heads else 0)
    return tiles * (_bytes(plan, shape, heads) + _axes_bytes(plan, shape))


def _bytes(plan: Plan, shape: Shape, heads: int) -> int:
    """For so many heads of a tile's tokens at once, and their cosines and sines."""
    half, rest = shape.rotary_dim // 2, shape.head_size - shape.rotary_dim if shape.fresh else 0
    angles = 4 * _padded(half, shape.cache_itemsize) + (2 * _padded(half, 4) if shape.cache_itemsize < 4 else 0)
    if plan.by_head:
        angles += 3 * plan.block_heads * _padded(half, 4)
    head = _turning_bytes(half, shape.itemsize, plan) + 2 * _padded(rest, shape.itemsize)
    return KERNEL_BYTES + plan.block_tokens * (TOKEN_BYTES + angles + heads * head)


def _axes_bytes(plan: Plan, shape: Shape) -> int:
    """What three positions a token need beside that, until cosines and sines are selected."""
    if not shape.axes:
        return 0
    half = shape.rotary_dim // 2
    rows = AXES_ROWS * _padded(half, shape.cache_itemsize) + AXES_SELECTED * _padded(half, 4) + TOKEN_BYTES
    return AXES_ONCE * _padded(half, 4) + plan.block_tokens * rows


def _transposed_bytes(plan: Plan, shape: Shape) -> int:
    """Whole heads, twice; their lanes and rows, of q, of k and of both; fp32; cosines, of which each takes a block."""
    half, heads = shape.rotary_dim // 2, plan.block_heads + shape.num_kv_heads
    rows = ceil_div(heads, 16) * 16
    copies = 5 if shape.num_kv_heads or heads < rows else 2
    lanes = copies * plan.lanes * rows * shape.itemsize
    moved = 2 * heads * _padded(shape.head_size, shape.itemsize)
    return KERNEL_BYTES + moved + lanes + 3 * half * rows * 4 + 8 * half * BLOCK_BYTES


def _turning_bytes(half: int, itemsize: int, plan: Plan) -> int:
    """For the rotary part of one head of one token."""
    wide, narrow = _padded(half, 4), _padded(half, itemsize)
    if plan.pairs == "bf16 words":
        return (10 if plan.block_tokens > 1 else 12) * wide
    if plan.pairs == "fp16 words":
        return 13 * wide
    if plan.pairs == "slices":  # putting pairs together takes five times what comes out
        return 23 * wide if itemsize == 4 else 4 * wide + 28 * narrow
    if plan.whole:
        return 4 * wide + 4 * narrow
    return 4 * wide + 8 * narrow if itemsize < 4 else 9 * wide


def _padded(lanes: int, itemsize: int) -> int:
    """Bytes of so many lanes in the unified buffer."""
    return ceil_div(lanes * itemsize, BLOCK_BYTES) * BLOCK_BYTES
