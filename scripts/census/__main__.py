"""``python -m scripts.census``: see the package's docstring."""

import argparse
import datetime
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.census import asking, kernels, report, reports
from scripts.census.asking import Question
from scripts.census.kernels import Case
from scripts.census.report import Answers
from tests.host_cann import bishengir, chips
from tests.host_cann.bishengir import Compiler
from tests.host_cann.chips import Chip

# Only its name is passed on; how many cores it has is asked by the plans, and changes none of the kernels.
CHIP_950 = Chip("950", "Ascend950PR_9589", 32, 64, 248 << 10, 128, 128, False)
CHIPS = {name: chip for name, chip in chips.CHIPS.items() if chip.triton} | {"950": CHIP_950}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.census", description="Do the compilers take our kernels?")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--positions", type=int, choices=kernels.MODELS, default=1, help="a token has")
    parser.add_argument("--quick", action="store_true", help="every twentieth kernel")
    parser.add_argument("--reports", action="store_true", help="users' reports on vllm-ascend's kernel, instead")
    parser.add_argument("--compiler", nargs="+", metavar="V", help="versions of ascendnpu-ir; all that are installed")
    parser.add_argument("--chip", nargs="+", choices=CHIPS, default=list(CHIPS))
    chosen = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("Triton interprets here: TRITON_INTERPRET=0 python -m scripts.census")
    compilers = [c for c in bishengir.installed() if not chosen.compiler or c.version in chosen.compiler]
    if not compilers:
        sys.exit(bishengir.MISSING)
    if chosen.reports:
        print(reports.table(compilers))
        return 0
    census = Census(chosen.positions, chosen.quick)
    census.take([CHIPS[name] for name in chosen.chip if name != CHIP_950.name], compilers)
    if CHIP_950.name in chosen.chip:
        versions = {compiler.version for compiler in compilers}
        census.take([CHIP_950], [compiler for compiler in bishengir.for_950() if compiler.version in versions])
    print(report.table(census.answered))
    facts = census.facts()
    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    if chosen.json:
        report.write(chosen.json, facts, census.answered)
    return 1 if census.others.get("never so") else 0


class Census:
    """The answers so far, and how they were come by."""

    def __init__(self, positions: int, quick: bool) -> None:
        self.positions, self.quick = positions, quick
        self.began = time.monotonic()
        self.answered: dict[Case, Answers] = {}
        self.groups: dict[str, list[list[str]]] = {}
        self.others: dict[str, list[str]] = {}

    def take(self, some: list[Chip], compilers: list[Compiler]) -> None:
        """Ask ``compilers``, all for the 950 or all not, about their kernels on ``some`` chips."""
        if not some or not compilers:
            return
        cases = list(dict.fromkeys(case for chip in some for case in kernels.cases(chip, self.positions)))
        if some == [CHIP_950]:
            cases = [case for case in cases if case.dtype == "bf16" and case.key]
        if self.quick:
            cases = cases[:: asking.EVERY]
        options = tuple(bishengir.options_of(compilers[0]).items())
        lowered = asking.in_processes("lowered", asking.linalg, [(case.kernel, options) for case in cases])
        probe = next(lowered[case.kernel, options] for case in cases if case.is_neox_style)
        groups = {compiler: asking.alike(compiler, some, probe) for compiler in compilers}
        answers, others = asking.answers_of(groups, list(dict.fromkeys(lowered.values())))
        for kind, asked in others.items():
            self.others.setdefault(kind, []).extend(asked)
        for compiler, several in groups.items():
            names = ["/".join(chip.name for chip in group) for group in several]
            self.groups[str(compiler)] = [[chip.name for chip in group] for group in several]
            for case in cases:
                by = [answers[Question(compiler, group[0], lowered[case.kernel, options])] for group in several]
                # By compiler where it says the same for all chips, else by compiler and chips.
                found = {f"{compiler} {name}": answer for name, answer in zip(names, by, strict=True)}
                self.answered.setdefault(case, {}).update(found if len(set(by)) > 1 else {str(compiler): by[0]})

    def facts(self) -> dict[str, Any]:
        return {
            "what": "what Huawei's compilers say of every kernel; hivmc, their last step, was not asked",
            "date": str(datetime.date.today()),
            "triton-ascend": version("triton-ascend"),
            "seconds": round(time.monotonic() - self.began),
            "cpu_seconds": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime),
            "chips, the first of each group asked about every kernel": self.groups,
            "the others were answered": {
                kind: len(asked) if kind == "as the first" else asked for kind, asked in self.others.items()
            },
        }


if __name__ == "__main__":
    sys.exit(main())
