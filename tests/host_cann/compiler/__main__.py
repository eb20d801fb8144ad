"""The command line, as triton-ascend calls it. See the package's docstring."""

import re
import sys
from pathlib import Path

from .. import chips
from . import entry, lower, ub

# triton-ascend looks for this word in --help to learn that the output is called NAME.o.
HELP = "usage: bishengir-compile INPUT [OPTIONS] -o NAME\n  --limit-auto-multi-buffer-buffer\n"


def option(argv: list[str], name: str, default: str) -> str:
    return next((a.split("=", 1)[1] for a in argv if a.startswith(f"--{name}=")), default)


def main(argv: list[str]) -> None:
    if "--help" in argv:
        print(HELP)
        return
    source, output = Path(argv[0]).read_text(), Path(argv[argv.index("-o") + 1] + ".o")
    try:
        chip = chips.by_soc_name(option(argv, "target", chips.current().soc_name))
    except KeyError as unknown:
        sys.exit(f"error: {unknown.args[0]}")
    if not chip.triton:
        sys.exit(f"error: Triton-Ascend does not compile for {chip.soc_name}")
    try:
        bufferised = lower.bufferise(source)
        needed = ub.required_bytes(source, multi_buffer=option(argv, "enable-auto-multi-buffer", "True") == "True")
        if "--enable-print-memory-allocated-size" in argv:
            print(f"UB size = {needed * 8} bits")
        if needed > chip.ub_bytes:
            sys.exit(f"error: ub overflow, requires {needed * 8} bits while {chip.ub_bytes * 8} bits available!")
        name = re.search(r"func\.func @(\w+)", source).group(1)
        lower.link(lower.to_object(bufferised), entry.source(name, entry.parameters(source)), output)
    except lower.Refused as refused:
        sys.exit(f"error: {refused}")


main(sys.argv[1:])
