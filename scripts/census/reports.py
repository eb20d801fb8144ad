"""Six reports of users about the unified buffer, asked of the compilers: do they say what the hardware's said?

All are about the kernel of vllm-ascend 0.23.0's ``ops/triton/rope.py``, which takes one block of heads at a time, bf16
and full rotary. The reports do not name their compiler's version.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scripts.census.asking import Answer, Question, ask
from tests.ascend_kernels import upstream
from tests.host_cann import chips, front_end
from tests.host_cann.bishengir import Compiler

RELEASE = "0.23.0"


class Report(NamedTuple):
    where: str
    heads: int  # in one block
    rotary_dim: int
    style: str
    fits: bool


REPORTS = (
    Report("vllm-ascend #12733 (A3; by about 2 KiB)", 64, 192, "NeoX", False),
    Report("vllm-ascend #12733", 16, 192, "NeoX", True),
    Report("vllm-ascend #8313", 64, 128, "NeoX", True),
    Report("vllm-ascend #8313", 32, 128, "GPT-J", True),
    Report("vllm-ascend #11536", 64, 256, "NeoX", False),
    Report("vllm-ascend #11536", 16, 256, "NeoX", True),
)


class NotHere(RuntimeError):
    """The release that the reports are about is not installed."""


def answers(compilers: Iterable[Compiler], about: Iterable[Report] = REPORTS) -> dict[Report, dict[Compiler, Answer]]:
    """What each compiler says of each report's kernel, for an A3."""
    found = upstream.source()
    if found is None or found[0] != RELEASE:
        raise NotHere(f"the reports are about vllm-ascend {RELEASE}, which is not installed here")
    with tempfile.TemporaryDirectory() as folder:
        kernel = upstream.kernel_module(found[1], Path(folder))._triton_rope
        asked = {}
        for report in about:
            block = report.heads
            arguments = upstream.arguments(block, report.rotary_dim, report.style == "NeoX", block)
            text = front_end.linalg(kernel, *arguments)
            asked[report] = {compiler: ask(Question(compiler, chips.CHIPS["A3"], text)) for compiler in compilers}
    return asked


def table(compilers: list[Compiler]) -> str:
    head = ["report", "heads x rotary_dim", "reported", *(str(compiler) for compiler in compilers)]
    rows = [head, ["---"] * len(head)]
    for report, by in answers(compilers).items():
        what = f"{report.heads} x {report.rotary_dim} {report.style}"
        reported = "fits" if report.fits else "overflow"
        rows.append([report.where, what, reported, *(said(report, answer) for answer in by.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def said(report: Report, answer: Answer) -> str:
    verdict = "agrees" if (answer.error is None) == report.fits else "**disagrees**"
    if answer.required_bits:
        return f"{verdict}: overflow, {answer.required_bits / 8 / 1024:.1f} KiB"
    if answer.error:
        return f"{verdict}: {answer.error}"
    return f"{verdict}: {answer.ub_bytes / 1024:.1f} KiB" + (", with a note" if answer.notes else "")
