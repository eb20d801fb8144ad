"""Does a change leave every kernel and every plan as it was? Hashes of what the front end makes of the census' kernels,
and of what is planned for each of its shapes.

    python -m scripts.census.unchanged BEFORE                    in a checkout of the commit before
    python -m scripts.census.unchanged AFTER --beside BEFORE     here; says what differs

Needs triton-ascend, and no compiler. Left out of the hashes: the names of Triton functions, places in the source, and
the order of a kernel's constants, which follows from how calls are nested.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.census import asking, kernels
from scripts.census.__main__ import CHIP_950, CHIPS
from tests.host_cann import bishengir
from tests.host_cann.bishengir import Compiler

TOKENS = (*range(1, 130), 200, 256, 400, 512, 777, 1024, 2048, 2049, 4096, 8192, 65536)
NAMES = re.compile(r"@rotary_kernel\w*|loc\([^()]*\)|#loc.*\n")
VALUE = re.compile(r"%[\w#$.-]+")
CONSTANT = ("arith.constant ", "tensor.empty() ", "linalg.fill ins(%c")
OPTIONS = {"": {}, "950": bishengir.options_of(Compiler("", Path(), for_950=True))}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.census.unchanged", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--beside", type=Path, metavar="OTHER")
    chosen = parser.parse_args()
    found = {"kernels": dict(_kernels()), "plans": dict(_plans())}
    chosen.file.write_text(json.dumps(found, indent=0) + "\n")
    print({part: len(hashes) for part, hashes in found.items()})
    if not chosen.beside:
        return 0
    other = json.loads(chosen.beside.read_text())
    differ = [
        name
        for part, hashes in found.items()
        for name in sorted(hashes.keys() | other[part].keys())
        if hashes.get(name) != other[part].get(name)
    ]
    print(f"{len(differ)} differ", *differ[:20], sep="\n")
    return 1 if differ else 0


def _kernels() -> Iterator[tuple[str, str]]:
    """By what is called, on which chip; a hash of its Linalg."""
    asked = {
        f"{chip.name} {positions} {' '.join(map(str, case[:6]))}": (case.kernel, tuple(OPTIONS[kind].items()))
        for chip in CHIPS.values()
        for kind in ("950" if chip == CHIP_950 else "",)
        for positions in kernels.MODELS
        for case in kernels.cases(chip, positions)
    }
    texts = asking.in_processes("lowered", asking.linalg, asked.values())
    yield from ((name, _hash(normal(texts[work]))) for name, work in asked.items())


def normal(text: str) -> str:
    """``text`` without what a change of words may change: constants, and tensors filled with them, which precede the
    rest, stand where they are used."""
    constants: dict[str, str] = {}

    def written_out(line: str) -> str:
        return VALUE.sub(lambda value: constants.get(value[0], value[0]), line)

    rest = []
    for line in NAMES.sub("", text).splitlines():
        name, _, made = line.strip().partition(" = ")
        if made.startswith(CONSTANT) and line.startswith("    %"):
            constants[name] = f"({written_out(made)})"
        else:
            rest.append(written_out(line))
    return "\n".join([*sorted(constants.values()), *rest])


def _plans() -> Iterator[tuple[str, str]]:
    """By what is called, on which chip; a hash of grids and constants for all TOKENS."""
    for chip in CHIPS.values():
        for shape in (*kernels.MODELS[1], *kernels.MODELS[3]):
            for dtype in kernels.DTYPES:
                for fresh, key in ((False, False), (False, True), (True, False), (True, True)):
                    planned = [kernels.planned(shape, dtype, fresh, key, chip, n) for n in TOKENS]
                    yield f"{chip.name} {shape.model} {dtype} {fresh} {key}", _hash(json.dumps(planned, sort_keys=True))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
