"""Blocks of heads of q and of k on Ascend: RMS norm of each head, and the rotation of its first lanes (NeoX).

With x the lanes of a head, w the weight, b the bias (if any) and r = 1 / sqrt(mean(x * x) + eps)::

    n = x * r * w + b
    y1 = n1 * cos - n2 * sin
    y2 = n2 * cos + n1 * sin

All in fp32; each result is rounded once. A head has three parts: lanes 1 and 2 of its pairs, and the rest, which is
normed only. What saves time:

* weight and bias are multiplied into the tile's cosines and sines, once for all heads;
* q and k go step by step beside each other, since every step waits until all before it are done;
* ``part_of`` and ``partial_sums`` say how slices and sums become few instructions.

A block is ``[tokens, heads, lanes]``. One of k may have ``HEADS_FIRST``: products with cosines take an instruction for
each of the first axis.
"""

import triton
import triton.language as tl

# Lanes of fp32: a block of the unified buffer, and what a vector instruction takes at once.
EIGHT, REGISTER = tl.constexpr(8), tl.constexpr(64)

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def _offsets(token_stride, head_stride, HEADS_FIRST: tl.constexpr, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
             BLOCK_H: tl.constexpr):
    t = tl.arange(0, BLOCK_T) * token_stride
    h = tl.arange(0, BLOCK_H) * head_stride
    rows = h[:, None, None] + t[None, :, None] if HEADS_FIRST else t[:, None, None] + h[None, :, None]
    return rows + tl.arange(0, LANES)[None, None, :]


@triton.jit
def load_heads(ptr, token_stride, head_stride, HEADS_FIRST: tl.constexpr, LANES: tl.constexpr, BLOCK_T: tl.constexpr,
               BLOCK_H: tl.constexpr):
    """With whole registers on an axis of their own, which ``part_of`` makes: CANN 8.5's compiler moves a reshape that
    makes an axis up to the load, and there takes rows of tokens for contiguous ones."""
    PARTS: tl.constexpr = 1 if HEADS_FIRST else LANES // REGISTER
    if (PARTS < 2) | (LANES % REGISTER != 0):
        heads = tl.load(ptr + _offsets(token_stride, head_stride, HEADS_FIRST, LANES, BLOCK_T, BLOCK_H))
    else:
        rows = _offsets(token_stride, head_stride, HEADS_FIRST, REGISTER, BLOCK_T, BLOCK_H)[:, :, None, :]
        parts = tl.arange(0, PARTS)[None, None, :, None] * REGISTER
        heads = tl.load(ptr + rows + parts).reshape(BLOCK_T, BLOCK_H, LANES)
    return heads


@triton.jit
def store_heads(ptr, heads, HEADS: tl.constexpr, HEADS_FIRST: tl.constexpr, BLOCK_T: tl.constexpr,
                BLOCK_H: tl.constexpr):
    """Into a contiguous tensor of ``HEADS`` heads."""
    LANES: tl.constexpr = heads.shape[2]
    tl.store(ptr + _offsets(HEADS * LANES, LANES, HEADS_FIRST, LANES, BLOCK_T, BLOCK_H), heads)


@triton.jit
def move_heads(x_ptr, y_ptr, token_stride, head_stride, HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr,
               BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    """Heads of v, or of the gate, as they are."""
    heads = load_heads(x_ptr, token_stride, head_stride, False, HEAD_SIZE, BLOCK_T, BLOCK_H)
    store_heads(y_ptr, heads, HEADS, False, BLOCK_T, BLOCK_H)


@triton.jit
def _parameter(ptr, COUNT: tl.constexpr):
    return tl.load(ptr + tl.arange(0, COUNT)).to(tl.float32)[None, None, :]


@triton.jit
def parameters(ptr, HEAD_SIZE: tl.constexpr, HALF: tl.constexpr):
    """The three parts of a weight or of a bias in fp32, ``[1, 1, lanes]`` each."""
    first = _parameter(ptr, HALF)
    second = _parameter(ptr + HALF, HALF)
    rest = _parameter(ptr + 2 * HALF, HEAD_SIZE - 2 * HALF) if HEAD_SIZE > 2 * HALF else first  # or not used
    return first, second, rest


@triton.jit
def for_each(lanes, COUNT: tl.constexpr):
    """``[1, 1, lanes]`` as ``[COUNT, 1, lanes]``: of a broadcast along two axes the compiler would make as many copies
    as a block has heads, and keep them."""
    if COUNT > 1:
        each = tl.zeros((COUNT, 1, lanes.shape[2]), tl.float32)
        for n in tl.static_range(COUNT):
            each = tl.insert_slice(each, lanes, (n, 0, 0), (1, 1, lanes.shape[2]), (1, 1, 1))
        lanes = each
    return lanes


@triton.jit
def weighed(cos, sin, w1, w2, HEADS_FIRST: tl.constexpr):
    """Cosines and sines, ``[BLOCK_T, HALF]``, times both halves of a weight; tokens on the axis where a block has
    them."""
    cos = cos[None, :, :] if HEADS_FIRST else cos[:, None, :]
    sin = sin[None, :, :] if HEADS_FIRST else sin[:, None, :]
    return cos * w1, sin * w2, cos * w2, sin * w1


@triton.jit
def biased(cos, sin, b1, b2, HEADS_FIRST: tl.constexpr):
    """What a bias adds to both halves of the results."""
    cos = cos[None, :, :] if HEADS_FIRST else cos[:, None, :]
    sin = sin[None, :, :] if HEADS_FIRST else sin[:, None, :]
    return b1 * cos - b2 * sin, b2 * cos + b1 * sin


@triton.jit
def part_of(heads, wide, FIRST: tl.constexpr, LANES: tl.constexpr, HEADS_FIRST: tl.constexpr):
    """``LANES`` lanes of each head from the ``FIRST`` on, in fp32; ``wide`` are ``heads`` in fp32.

    Slices of lanes the compiler would move before the computation of ``wide``, and compute twice. An axis of parts it
    leaves in place; but not if sums of ``wide`` are along another, and CANN 8.5's cannot load with such an axis what
    has heads first.
    """
    A: tl.constexpr = wide.shape[0]
    B: tl.constexpr = wide.shape[1]
    PARTS: tl.constexpr = wide.shape[2] // LANES
    if wide.shape[2] % REGISTER + wide.shape[2] % LANES + FIRST % LANES + HEADS_FIRST == 0:
        parts = wide.reshape(A, B, PARTS, LANES)
        part = tl.extract_slice(parts, (0, 0, FIRST // LANES, 0), (A, B, 1, LANES), (1, 1, 1, 1)).reshape(A, B, LANES)
    else:
        part = tl.extract_slice(heads, (0, 0, FIRST), (A, B, LANES), (1, 1, 1)).to(tl.float32)
    return part


@triton.jit
def squares(heads, wide, HEADS_FIRST: tl.constexpr):
    """Lanes whose sum is that of a head's squares: of heads of whole registers, one register."""
    LANES: tl.constexpr = wide.shape[2]
    if LANES % REGISTER != 0:
        found = wide * wide
    else:
        part = part_of(heads, wide, 0, REGISTER, HEADS_FIRST)
        found = part * part
        for n in tl.static_range(1, LANES // REGISTER):
            part = part_of(heads, wide, n * REGISTER, REGISTER, HEADS_FIRST)
            found += part * part
    return found


@triton.jit
def partial_sums(lanes, EPS: tl.constexpr):
    """``[heads, sums]``, which add up to the sum of ``lanes`` and ``EPS``.

    Eight lanes are added by an instruction that is five times as fast as the one that adds all. It must not be followed
    by the next such sum at once: the compiler would make one step of both, for which it has no code. Hence ``EPS``,
    between them.
    """
    ROWS: tl.constexpr = lanes.shape[0] * lanes.shape[1]
    LANES: tl.constexpr = lanes.shape[2]
    if LANES == REGISTER:
        sums = (tl.sum(lanes.reshape(ROWS * EIGHT, EIGHT), axis=1) + EPS / EIGHT).reshape(ROWS, EIGHT)
    else:
        sums = (lanes + EPS / LANES).reshape(ROWS, LANES)
    return sums


@triton.jit
def root(sums, A: tl.constexpr, B: tl.constexpr):
    return tl.sqrt(tl.sum(sums, axis=1)).reshape(A, B)


@triton.jit
def put(heads, part, FIRST: tl.constexpr):
    """``heads`` with ``part`` from lane ``FIRST`` on."""
    return tl.insert_slice(heads, part.to(heads.dtype), (0, 0, FIRST), (part.shape[0], part.shape[1], part.shape[2]),
                           (1, 1, 1))


@triton.jit
def normed_and_turned(q, k, q_c1, q_s2, q_c2, q_s1, q_b1, q_b2, q_w3, q_b3, k_c1, k_s2, k_c2, k_s1, k_b1, k_b2, k_w3,
                      k_b3, EPS: tl.constexpr, BIAS: tl.constexpr, WITH_K: tl.constexpr, K_FIRST: tl.constexpr):
    """The results of blocks ``q`` and ``k`` (without ``WITH_K``, of ``q``), of both at the same step at any time.

    Sums of squares, and ``EPS`` times the head size, are as good as means, and ``EPS``: the root of the head size is
    made up for where the inverse is taken.
    """
    ROOT: tl.constexpr = q.shape[2] ** 0.5
    HALF: tl.constexpr = q_c1.shape[2]
    HEAD_SIZE: tl.constexpr = q.shape[2]
    REST: tl.constexpr = HEAD_SIZE - 2 * HALF
    q_wide = q.to(tl.float32)
    if WITH_K:
        k_wide = k.to(tl.float32)
    q1 = part_of(q, q_wide, 0, HALF, False)
    q2 = part_of(q, q_wide, HALF, HALF, False)
    q_sums = squares(q, q_wide, False)
    if WITH_K:
        k1 = part_of(k, k_wide, 0, HALF, K_FIRST)
        k2 = part_of(k, k_wide, HALF, HALF, K_FIRST)
        k_sums = squares(k, k_wide, K_FIRST)
    q_sums = partial_sums(q_sums, EPS)
    if WITH_K:
        k_sums = partial_sums(k_sums, EPS)
    q_root = root(q_sums, q.shape[0], q.shape[1])
    if WITH_K:
        k_root = root(k_sums, k.shape[0], k.shape[1])
    q_inverse = (ROOT / q_root)[:, :, None]
    if WITH_K:
        k_inverse = (ROOT / k_root)[:, :, None]
    q1 = q1 * q_inverse
    if WITH_K:
        k1 = k1 * k_inverse
    q2 = q2 * q_inverse
    if WITH_K:
        k2 = k2 * k_inverse
    if REST > 0:
        q3 = part_of(q, q_wide, 2 * HALF, REST, False) * q_inverse
        if WITH_K:
            k3 = part_of(k, k_wide, 2 * HALF, REST, K_FIRST) * k_inverse
    q1_cos = q1 * q_c1
    q2_sin = q2 * q_s2
    if WITH_K:
        k1_cos = k1 * k_c1
        k2_sin = k2 * k_s2
    q2_cos = q2 * q_c2
    q1_sin = q1 * q_s1
    if WITH_K:
        k2_cos = k2 * k_c2
        k1_sin = k1 * k_s1
    if REST > 0:
        q3 = q3 * q_w3
        if WITH_K:
            k3 = k3 * k_w3
    q1 = q1_cos - q2_sin
    if WITH_K:
        k1 = k1_cos - k2_sin
    q2 = q2_cos + q1_sin
    if WITH_K:
        k2 = k2_cos + k1_sin
    if BIAS:
        q1 += q_b1
        q2 += q_b2
        if REST > 0:
            q3 += q_b3
        if WITH_K:
            k1 += k_b1
            k2 += k_b2
            if REST > 0:
                k3 += k_b3
    q = put(q, q1, 0)
    if WITH_K:
        k = put(k, k1, 0)
    q = put(q, q2, HALF)
    if WITH_K:
        k = put(k, k2, HALF)
    if REST > 0:
        q = put(q, q3, 2 * HALF)
        if WITH_K:
            k = put(k, k3, 2 * HALF)
    return q, k
