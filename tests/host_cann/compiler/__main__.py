"""The command line, as triton-ascend calls it. See the package's docstring."""

import hashlib
import os
import re
import sys
from pathlib import Path

from .. import chips, environment
from . import entry, lower, ub


def option(argv: list[str], name: str, default: str) -> str:
    return next((a.split("=", 1)[1] for a in argv if a.startswith(f"--{name}=")), default)


def main(argv: list[str]) -> None:
    source, output = Path(argv[0]).read_text(), Path(argv[argv.index("-o") + 1] + ".o")
    try:
        chip = chips.by_soc_name(option(argv, "target", chips.current().soc_name))
    except KeyError as unknown:
        sys.exit(f"error: {unknown.args[0]}")
    if not chip.triton:
        sys.exit(f"error: Triton-Ascend does not compile for {chip.soc_name}")
    try:
        needed = ub.required_bytes(source, multi_buffer=option(argv, "enable-auto-multi-buffer", "True") == "True")
        if "--enable-print-memory-allocated-size" in argv:
            print(f"UB size = {needed * 8} bits")
        if needed > chip.ub_bytes:
            sys.exit(f"error: ub overflow, requires {needed * 8} bits while {chip.ub_bytes * 8} bits available!")
        output.write_bytes(compiled(source))
    except lower.Refused as refused:
        sys.exit(f"error: {refused}")


def compiled(source: str) -> bytes:
    """The shared object. A chip decides whether a kernel fits and not what it is, so chips share one."""
    key = hashlib.sha256(source.encode()).hexdigest()
    kept = environment.compiled(key)
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        own = kept.with_suffix(f".{os.getpid()}")
        name = re.search(r"func\.func @(\w+)", source).group(1)
        lower.link(lower.to_object(source), entry.source(name, entry.parameters(source), key), own)
        kept.with_suffix(".mlir").write_text(source)
        own.replace(kept)  # last, and whole or not at all, whoever compiles the same beside us
    return kept.read_bytes()


main(sys.argv[1:])
