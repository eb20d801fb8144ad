"""The sections of a multimodal model (MRoPE), from its ``config.json``: how many pairs of lanes turn by each position.

A token of such a model has three positions, in time, in height and in width; ``mrope_section`` of its rope parameters
says how many pairs are of each. ``kernels/orders.py`` has the orders. Knows JSON only.
"""

from typing import Any, NamedTuple

from rope_patch.cli.answer import CannotAnswer, short, unexpected, whole

# model_type of ERNIE-4.5-VL, which has an order of its own, and lists its sections as height, width, time.
ERNIE = {"ernie4_5_moe_vl", "ernie4_5_vl_moe", "ernie4_5_vl_moe_text"}
ERNIES_TIME = 20  # its pairs of time if its configuration says nothing, as in vLLM
FIELD = "mrope_section"
UNKNOWN = ("xdrope", "bailing_mrope", "openpangu")  # rope types that are multimodal, in orders that no kernel knows


class Sections(NamedTuple):
    """``order`` is one of ``kernels/orders.py``'s; ``pairs`` are those of time, height and width."""

    order: str
    pairs: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.order} {' '.join(map(str, self.pairs))}"

    @property
    def as_configured(self) -> list[int]:
        """In the order in which vLLM's class expects them."""
        t, h, w = self.pairs
        return [h, w, t] if self.order == "alternating" else [t, h, w]


def of(config: dict[str, Any], kind: str, parameters: dict[str, Any], rotary_dim: int) -> Sections | None:
    """The sections of a model with these rope parameters; None if its tokens have one position.

    Raises:
        CannotAnswer: they are not three numbers of pairs whose sum is ``rotary_dim`` / 2; or they are in an order that
            no kernel knows, and native code serves.
    """
    scaling = parameters.get("rope_type", parameters.get("type"))
    for field, value in (("xdrope_section", parameters.get("xdrope_section")), ("rope_type", scaling)):
        if value in UNKNOWN or (field == "xdrope_section" and value is not None):
            knows = "the kernel does not know that order of sections, vLLM's own code serves it"
            raise CannotAnswer(f"{field} is {short(value)}: {knows}")
    ernie = kind in ERNIE
    found = parameters.get(FIELD)
    if found is None and ernie:
        time = whole("freq_allocation", config.get("freq_allocation", ERNIES_TIME), 0, rotary_dim // 2)
        found = [(rotary_dim // 2 - time) // 2] * 2 + [time]
    if found is None:
        return None
    first, second, third = _three(found, rotary_dim // 2)
    if ernie:
        if first != second:
            raise unexpected(FIELD, found, "as many pairs of height, the first, as of width, the second")
        return Sections("alternating", (third, first, second))
    interleaved = parameters.get("mrope_interleaved", False)
    if not isinstance(interleaved, bool):
        raise unexpected("mrope_interleaved", interleaved, "true or false")
    return Sections("interleaved" if interleaved else "chunked", (first, second, third))


def _three(found: object, pairs: int) -> list[int]:
    numbers = [x for x in found if isinstance(x, int) and not isinstance(x, bool)] if isinstance(found, list) else []
    if len(numbers) != 3 or numbers != found or min(numbers) < 0 or sum(numbers) != pairs:
        raise unexpected(FIELD, found, f"3 whole numbers from 0 whose sum is {pairs}, half of the lanes that rotate")
    return numbers
