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

``normed_heads.py`` says what a block is.
"""

import triton
import triton.language as tl

# Lanes of fp32: a block of the unified buffer, and what a vector instruction takes at once.
EIGHT, REGISTER = tl.constexpr(8), tl.constexpr(64)

# Arguments stay grouped by what they are about, not one a line.
# fmt: off


@triton.jit
def part_of(heads, wide, FIRST: tl.constexpr, LANES: tl.constexpr, APART: tl.constexpr):
    """``LANES`` lanes of each head from the ``FIRST`` on, in fp32; ``wide`` are ``heads`` in fp32.

    Slices of lanes the compiler would move before the computation of ``wide``, and compute twice. An axis of parts it
    leaves in place; but not if sums of ``wide`` are along another. And CANN 8.5's moves that axis into the load, where
    it loses strides: what does not lie side by side in memory is cut ``APART`` from what was loaded.
    """
    A: tl.constexpr = wide.shape[0]
    B: tl.constexpr = wide.shape[1]
    PARTS: tl.constexpr = wide.shape[2] // LANES
    if wide.shape[2] % REGISTER + wide.shape[2] % LANES + FIRST % LANES + APART == 0:
        parts = wide.reshape(A, B, PARTS, LANES)
        part = tl.extract_slice(parts, (0, 0, FIRST // LANES, 0), (A, B, 1, LANES), (1, 1, 1, 1)).reshape(A, B, LANES)
    else:
        part = tl.extract_slice(heads, (0, 0, FIRST), (A, B, LANES), (1, 1, 1)).to(tl.float32)
    return part


@triton.jit
def _squares(heads, wide, N: tl.constexpr, LANES: tl.constexpr, APART: tl.constexpr):
    """The same lanes are normed: if cut apart, they are widened twice. Else the compiler would see that they are the
    same, and lay out what is normed in blocks of eight too, which costs copies."""
    if wide.shape[2] % REGISTER != 0:
        part = wide
    elif APART:
        bits = heads.to(tl.int16, bitcast=True)
        bits = tl.extract_slice(bits, (0, 0, N * LANES), (heads.shape[0], heads.shape[1], LANES), (1, 1, 1))
        part = bits.to(heads.dtype, bitcast=True).to(tl.float32)
    else:
        part = part_of(heads, wide, N * LANES, LANES, APART)
    return part * part


@triton.jit
def squares(q, q_wide, k, k_wide, WITH_K: tl.constexpr, APART: tl.constexpr):
    """Lanes whose sum is that of a head's squares: of heads of whole registers, one register.

    ``APART``, a head of one register is two parts: a part that is all of what was loaded is none.
    """
    HEAD_SIZE: tl.constexpr = q_wide.shape[2]
    LANES: tl.constexpr = REGISTER // 2 if APART and HEAD_SIZE == REGISTER else REGISTER
    PARTS: tl.constexpr = HEAD_SIZE // LANES if HEAD_SIZE % REGISTER == 0 else 1
    q_sums = _squares(q, q_wide, 0, LANES, APART)
    k_sums = _squares(k, k_wide, 0, LANES, APART) if WITH_K else q_sums
    for n in tl.static_range(1, PARTS):
        q_more = _squares(q, q_wide, n, LANES, APART)
        k_more = _squares(k, k_wide, n, LANES, APART) if WITH_K else q_more
        q_sums += q_more
        k_sums = k_sums + k_more if WITH_K else q_sums
    return q_sums, k_sums


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
def whole_sums(sums, A: tl.constexpr, B: tl.constexpr):
    return tl.sum(sums, axis=1).reshape(A, B)


@triton.jit
def put(heads, part, FIRST: tl.constexpr):
    """``heads`` with ``part`` from lane ``FIRST`` on."""
    return tl.insert_slice(heads, part.to(heads.dtype), (0, 0, FIRST), (part.shape[0], part.shape[1], part.shape[2]),
                           (1, 1, 1))


@triton.jit
def normed_and_turned(q, k, q_c1, q_s2, q_c2, q_s1, q_b1, q_b2, q_w3, q_b3, k_c1, k_s2, k_c2, k_s1, k_b1, k_b2, k_w3,
                      k_b3, EPS: tl.constexpr, BIAS: tl.constexpr, WITH_K: tl.constexpr, APART: tl.constexpr):
    """The results of blocks ``q`` and ``k`` (without ``WITH_K``, of ``q``), of both at the same step at any time.

    Sums of squares, and ``EPS`` times the head size, are as good as means, and ``EPS``: the root of the head size is
    made up for where the inverse is taken.
    """
    ROOT: tl.constexpr = q.shape[2] ** 0.5
    HALF: tl.constexpr = q_c1.shape[2]
    HEAD_SIZE: tl.constexpr = q.shape[2]
    REST: tl.constexpr = HEAD_SIZE - 2 * HALF
    q_wide = q.to(tl.float32)
    k_wide = k.to(tl.float32) if WITH_K else q_wide
    q1 = part_of(q, q_wide, 0, HALF, APART)
    q2 = part_of(q, q_wide, HALF, HALF, APART)
    if WITH_K:
        k1 = part_of(k, k_wide, 0, HALF, APART)
        k2 = part_of(k, k_wide, HALF, HALF, APART)
    q_sums, k_sums = squares(q, q_wide, k, k_wide, WITH_K, APART)
    q_sums = partial_sums(q_sums, EPS)
    if WITH_K:
        k_sums = partial_sums(k_sums, EPS)
    q_sums = whole_sums(q_sums, q.shape[0], q.shape[1])
    if WITH_K:
        k_sums = whole_sums(k_sums, k.shape[0], k.shape[1])
    q_root = tl.sqrt(q_sums)
    if WITH_K:
        k_root = tl.sqrt(k_sums)
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
        q3 = part_of(q, q_wide, 2 * HALF, REST, APART) * q_inverse
        if WITH_K:
            k3 = part_of(k, k_wide, 2 * HALF, REST, APART) * k_inverse
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
