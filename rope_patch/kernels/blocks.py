"""What the plans of ``tiles.py`` and ``by_heads.py`` have in common: heads in blocks, and how a block is cut.

What a block takes of the unified buffer, as Huawei's compilers lay it out: two buffers for whatever is loaded or
stored, so that one moves while the other is worked on, and fp32 in between. The numbers of buffers below were read off
what bishengir-compile 1.0.0, 1.1.0 and 1.2.0 report of 512 random plans of the shapes of tests/shapes.py. Over the
kernels of ``scripts/census`` the sum is never below what a compiler reports, and in the median at most a sixth above.

A compiler that runs out of space lets buffers share it: those of q with those of k, those of full tiles with those of
the masked one, which are at work one after the other. Its steps then wait for each other, but what one block of one
tensor needs must fit: in a census of plans that asked for up to one and a half times the buffer, all that overflowed
were such. Three positions a token need their rows before the heads only: of 52 random plans, in a search that is not
kept, all that overflowed were such too.
"""

from dataclasses import dataclass

from rope_patch.kernels.ascend import BLOCK_BYTES, KERNEL_BYTES, AscendPlan, memory_traffic, padded
from rope_patch.kernels.plan import Constant, Device, ceil_div
from rope_patch.kernels.shape import Shape

# What memory is asked for; parts of heads that are whole requests can be moved by themselves.
REQUEST_BYTES = 128
# More for three positions a token: their shares, rows, and what is selected of them. Read off the models' of
# tests/kernels/test_three_positions.py.
AXES_ONCE, AXES_ROWS, AXES_SELECTED = 8, 8, 6
# Positions, rows and their masks of each token.
TOKEN_BYTES = 64
TILE, TILE_OF_TOKENS = 60, 320  # between tiles of one token, and of several: their positions are waited for
ROW = 5  # for each cosine row that is loaded by itself
# More for three positions a token, for each tile, and for each token beside its rows.
TILE_OF_AXES, SELECT = 450, 35
INSTRUCTION = 25  # of the scalar unit, for a vector instruction and its arguments
INSTRUCTIONS = 13.5  # for a block of heads, its transfers, flags and barriers counted as so many more
PARTS = 190  # more for a block whose heads are moved in parts
BETWEEN = 22  # cycles from one vector step to another that needs its result
SHARING = 1.1  # times as long where buffers have to share space
TURN = 210  # between a load, the work on it and its store, where they share a buffer
PIPES = 5  # of what ``_block`` returns, the cycles
Cut = tuple[int, int, str, bool, bool]  # the fields of ``Blocks``


@dataclass(frozen=True)
class Blocks(AscendPlan):
    """Heads in blocks; ``block.py`` and ``angles.py`` say what the fields but the first two are for."""

    block_heads: int
    block_kv_heads: int
    pairs: str
    whole: bool
    wide_rows: bool

    by_head = False  # whether cos and sin are copied for each head of a block
    overlap = False  # whether the last tile begins early enough to be full

    @property
    def in_words(self) -> bool:
        return self.pairs.endswith("words")

    def constants(self, shape: Shape, stride_unit: int = 1) -> dict[str, Constant]:
        return shape.constants(2 if self.in_words else 1) | {
            "PAIRS": self.pairs,
            "WHOLE": self.whole,
            "WIDE_ROWS": self.wide_rows,
            "BLOCK_Q": self.block_heads,
            "BLOCK_K": self.block_kv_heads,
        }

    def fits(self, shape: Shape, device: Device) -> bool:
        turning = self._bytes(shape, max(self.block_heads, self.block_kv_heads))
        return max(turning, self._bytes(shape, 0) + self._axes_bytes(shape)) <= device.tile_bytes

    def need(self, shape: Shape) -> int:
        heads = self.block_heads + (self.block_kv_heads if shape.num_kv_heads else 0)
        # The masked tile at the end is laid out beside the full ones. (Of one fresh output and one in place too, which
        # have it although tiles may overlap: then more buffers share space than this says.)
        tiles = 2 if self.block_tokens > 1 and not self.overlap else 1
        return tiles * (self._bytes(shape, heads) + self._axes_bytes(shape))

    def _bytes(self, shape: Shape, heads: int) -> int:
        """For so many heads of a tile's tokens at once, and their cosines and sines."""
        half, rest = shape.half, shape.rotation.head_size - shape.rotation.rotary_dim if shape.fresh else 0
        angles = 4 * padded(half, shape.cache_itemsize) + (2 * padded(half, 4) if shape.cache_itemsize < 4 else 0)
        if self.by_head:
            angles += 3 * self.block_heads * padded(half, 4)
        head = self._turning_bytes(half, shape.itemsize) + 2 * padded(rest, shape.itemsize)
        return KERNEL_BYTES + self.block_tokens * (TOKEN_BYTES + angles + heads * head)

    def _axes_bytes(self, shape: Shape) -> int:
        """What three positions a token need beside that, until cosines and sines are selected."""
        if not shape.rotation.axes:
            return 0
        wide = padded(shape.half, 4)
        rows = AXES_ROWS * padded(shape.half, shape.cache_itemsize) + AXES_SELECTED * wide + TOKEN_BYTES
        return AXES_ONCE * wide + self.block_tokens * rows

    def _turning_bytes(self, half: int, itemsize: int) -> int:
        """For the rotary part of one head of one token."""
        wide, narrow = padded(half, 4), padded(half, itemsize)
        if self.pairs == "bf16 words":
            return (10 if self.block_tokens > 1 else 12) * wide
        if self.pairs == "fp16 words":
            return 13 * wide
        if self.pairs == "slices":  # putting pairs together takes five times what comes out
            return 23 * wide if itemsize == 4 else 4 * wide + 28 * narrow
        if self.whole:
            return 4 * wide + 4 * narrow
        return 4 * wide + 8 * narrow if itemsize < 4 else 9 * wide

    def work(self, shape: Shape, device: Device) -> tuple[float, float]:
        kinds = [(shape.num_heads, self.block_heads)]
        if shape.num_kv_heads:
            kinds.append((shape.num_kv_heads, self.block_kv_heads))
        blocks = [(heads / block / self.units, self._block(shape, block)) for heads, block in kinds]
        if self._in_turns:  # each pipe has its own sum
            cycles = max(sum(number * block[pipe] for number, block in blocks) for pipe in range(PIPES))
        else:
            cycles = sum(number * max(block[:PIPES]) for number, block in blocks)
        if self.whole and self.need(shape) > device.tile_bytes:  # what is moved then waits for what is worked on
            cycles *= SHARING
        cycles += TILE if self.block_tokens == 1 else TILE_OF_TOKENS
        rows = ROW + ceil_div(shape.rotation.rotary_dim * 4, 256)
        cycles += rows * self.block_tokens
        if shape.rotation.axes:
            cycles += TILE_OF_AXES + (2 * rows + SELECT) * self.block_tokens
        if self.by_head:
            cycles += self.block_heads * (self.block_tokens + BETWEEN)
        return cycles, sum(number * block[PIPES] for number, block in blocks)

    @property
    def _in_turns(self) -> bool:
        """Whether the next block's instructions are issued while this one's steps are at work, and fill their waits."""
        return self.block_tokens == 1 and not self.splits_tokens and not self.in_words

    def _block(self, shape: Shape, heads: int) -> tuple[float, ...]:
        """Of a block of so many heads of a tile's tokens: cycles of the scalar unit, of vector steps, of the load, of
        the store, and of all these in one of two buffers; then the bytes that memory moves each way."""
        size = shape.rotation.head_size * shape.itemsize
        bursts, times = parts(shape), heads
        if self.whole:  # beside each other, a token's heads are one
            moved = sum(bursts)
            bursts, times = ([moved], heads) if moved < size else ([heads * size], 1)
        count = len(bursts) * times * self.block_tokens
        traffic = sum(memory_traffic(burst, size) for burst in bursts) * times * self.block_tokens
        load = 15 * len(bursts) + 1.5 * count + traffic / 46
        store = 12 * len(bursts) + 1.5 * count + traffic / 64
        # Products with cosines and sines that are not there for each head take an instruction for each token.
        again = 4 * (self.block_tokens - 1) if heads > 1 and not self.by_head else 0
        instructions = INSTRUCTIONS + again + ((10 if self.block_tokens == 1 else 6) if self.in_words else 0)
        issue = INSTRUCTION * instructions + (0 if self.whole else PARTS)
        vector = self._vector(shape, self.block_tokens * heads)
        # Whole heads are stored from where they were loaded to: with two buffers that much must not take longer.
        turn = (load + max(issue, vector) + store + TURN) / 2 if self.whole else 0.0
        return issue, vector, load, store, turn, traffic

    def _vector(self, shape: Shape, rows: int) -> float:
        half = shape.half
        apart = rows * ceil_div(half * 4, 256)  # repeats of a step that goes head by head
        repeats = ceil_div(rows * half * 4, 256)
        waits = 1 if self._in_turns else 7
        steps = 2 * apart + 8 * repeats + 2 * (apart if self.whole else repeats) + waits * BETWEEN
        if self.in_words:
            steps += 8 * apart
        elif self.pairs == "slices":
            steps += 40 * apart
        if self.whole:
            steps += rows * ceil_div(half * shape.itemsize, 256) + BETWEEN
        return steps


def cuts(shape: Shape, heads: int, kv_heads: int) -> list[Cut]:
    """Blocks of so many heads, whole heads moved at once or in parts, which of these ways are worth a look: whole where
    they can be cut, and in parts where those are whole requests by themselves."""
    sizes, head = parts(shape), shape.rotation.head_size * shape.itemsize
    pairs = "halves" if shape.rotation.is_neox_style else shape.words or "slices"
    if sizes[0] % BLOCK_BYTES or head % BLOCK_BYTES or len(sizes) == 1 or pairs == "slices":
        ways = [False]
    else:
        ways = [True] if any(size % REQUEST_BYTES for size in sizes) else [True, False]
    return [(heads, kv_heads, pairs, whole, halves_are_blocks(shape)) for whole in ways]


def parts(shape: Shape) -> list[int]:
    """Bytes of the parts of a head that are moved: each half of the rotary part, or all of it; and of fresh outputs
    what passes through."""
    half = shape.half * shape.itemsize
    rest = (shape.rotation.head_size - shape.rotation.rotary_dim) * shape.itemsize if shape.fresh else 0
    return ([half, half] if shape.rotation.is_neox_style else [2 * half]) + ([rest] if rest else [])


def divisor(heads: int, most: int) -> int:
    """The largest block of at most ``most`` heads that divides them: nothing masks the rest."""
    return max(block for block in range(1, max(1, min(heads, most)) + 1) if max(1, heads) % block == 0)


def halves_are_blocks(shape: Shape) -> bool:
    """Whether half a cache row is whole blocks: then rows of several tokens can be gathered, one DMA each, and a whole
    row be cut in the unified buffer.

    triton-ascend 3.2.0's front end makes a loop over single elements of other rows. And Ascend's compiler widens cos
    and sin after it has cut them apart, where they would begin between two blocks: a vector instruction must not.
    """
    return shape.half * shape.cache_itemsize % BLOCK_BYTES == 0
