"""Several positions a token (vLLM's MRoPE): which of a token's three cache rows each pair of lanes turns by.

A token of an image has a position in time, one in height and one in width. Its cosines and sines are those of three
rows of the cache, each pair of lanes taking one axis. ``axes`` says which, as a string with one of the letters t, h and
w for each pair, such as "tthhhwww". The kernels know three orders of them:

* ``"chunked"``: the pairs of t, then those of h, then those of w (Qwen2-VL, GLM-4.1V);
* ``"interleaved"``: t, h and w in turns; where h or w is used up, and at the end, t (Qwen3-VL);
* ``"alternating"``: h and w in turns, then t (ERNIE-4.5-VL).
"""

import functools

ORDERS = ("chunked", "interleaved", "alternating")


def lanes(order: str, half: int, h: int, w: int) -> str:
    """The axes of ``half`` pairs of lanes, of which so many (at most) are of h and of w."""
    if order == "chunked":
        return "t" * (half - h - w) + "h" * h + "w" * w
    if order == "interleaved":
        return "".join("thw"[lane % 3] if lane < 3 * (0, h, w)[lane % 3] else "t" for lane in range(half))
    return "".join("hw"[lane % 2] if lane < 2 * (h, w)[lane % 2] else "t" for lane in range(half))


@functools.cache
def order_of(axes: str) -> tuple[str, int, int] | None:
    """The order of these axes, and how many pairs are of h and of w; None for an order that no kernel knows."""
    h, w = axes.count("h"), axes.count("w")
    return next(((order, h, w) for order in ORDERS if lanes(order, len(axes), h, w) == axes), None)
