"""What follows from what ``verify`` found: in a cell, in one sentence, and what helps."""

from typing import Any, NamedTuple

from rope_patch import settings
from rope_patch.cli.sides import NOT_HERE, NOT_KNOWN, RIGHT, UNSTEADY, WRONG, Both, Side
from rope_patch.serving.first_use import NOT_POSSIBLE

MEMORY = ("out of memory", "outofmemory", NOT_POSSIBLE)
MORE_MEMORY = (
    "Where no memory was left: stop the vLLM that runs on this device, or give it less (--gpu-memory-utilization)"
)


class Verdict(NamedTuple):
    ok: bool
    unknown: bool  # nothing is known to be wrong, but not all could be checked
    text: str
    helps: list[str]


def of(results: list[Both]) -> Verdict:
    """Wrong is what serves now, or the kernel. What could not be checked is never wrong; where it is native code that
    does not serve, it is only said."""
    wrong = [result for result in results if result.now.is_bad or result.kernel.is_bad]
    unknown = [side for one in results for side in (one.now, one.with_it, one.kernel) if side.outcome == NOT_KNOWN]
    native = [one.without for one in results if one.without.outcome == NOT_KNOWN and one.now.outcome != NOT_KNOWN]
    text = f"{len(wrong)} of {len(results)} wrong" if wrong else f"all {len(results)} right, to rounding"
    if unknown and not wrong:
        text = f"not all could be checked: {_whys(unknown)}"
    if native:
        text += f"; without rope_patch {len(native)} of {len(results)} could not be run: {_whys(native)}"
    return Verdict(not (wrong or unknown), bool(unknown) and not wrong, text, list(dict.fromkeys(_helps(results))))


def _whys(sides: list[Side]) -> str:
    return "; ".join(dict.fromkeys(side.said for side in sides if side.said))


def _helps(results: list[Both]) -> list[str]:
    helps = []
    for result in results:
        what = f"{result.rope.name} {result.dtype}"
        if result.table.differs:
            helps.append(f"{what}: {result.table.differs}; with rope_patch and without, it rotates by that table")
        if result.without.is_bad:
            helps.append(_instead(what, result))
        if result.kernel.is_bad:
            helps.append(
                f"{what}: the kernel is wrong or does not run here ({result.kernel.said or 'wrong lanes'}); report it"
            )
        said = " ".join(filter(None, (side.said for side in (result.with_it, result.without, result.kernel))))
        if any(sign in said.lower() for sign in MEMORY):
            helps.append(MORE_MEMORY)
    return helps


def _instead(what: str, result: Both) -> str:
    """What helps where native code is wrong."""
    native = f"{what}: {result.without.serves} is {result.without.outcome} without rope_patch"
    if result.kernel.outcome != RIGHT:
        return f"{native}, and the kernel cannot replace it"
    if result.now is result.with_it and not result.now.is_bad:
        return f"{native}; rope_patch serves it rightly"
    reason = result.with_it.said or ""
    if f"{settings.VARIABLE}=all" in reason:
        return f"{native}, and serves now; {settings.VARIABLE}=all gives it to the kernel, which is right"
    return f"{native}, and serves now ({reason}); the kernel is right"


def of_side(side: Side) -> str:
    """As a cell of the table."""
    found = side.found
    if side.outcome == WRONG and found.wrong:
        lanes = f"{found.wrong} of {found.lanes} lanes, by up to {found.max_error:.2g}"
        return f"{side.serves}: WRONG, {lanes}"
    if side.outcome in (RIGHT, UNSTEADY):
        return f"{side.serves}: {side.outcome}" + (f" ({side.said})" if side.said else "")
    if side.outcome == NOT_HERE:
        return f"- ({side.said})"
    return f"{side.serves}: {side.outcome} ({side.said})"


def data(result: Both) -> dict[str, Any]:
    """As ``--json`` has it. What is beside the shape and the two sides is of the kernel."""
    kernel = result.kernel
    ok = not (result.now.is_bad or kernel.is_bad) and kernel.outcome != NOT_KNOWN
    return {
        "shape": result.rope.as_data(),
        "dtype": result.dtype,
        "max_ulp": kernel.found.max_ulp,
        "wrong": kernel.found.wrong,
        "lanes": kernel.found.lanes,
        "fault": kernel.said if kernel.outcome != RIGHT and not kernel.found.wrong else None,
        "ok": ok,
        "with": result.with_it.as_data(),
        "without": result.without.as_data(),
        "table": result.table.differs,
        "table_judged_by": result.table.definition,
        "serves_now": result.now.serves,
    }
