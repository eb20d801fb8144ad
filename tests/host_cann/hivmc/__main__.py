"""The command line, as ``bishengir-compile`` calls it. See the package's docstring."""

import hashlib
import json
import os
import sys
from pathlib import Path

from .. import environment
from . import entry, library, lower, program


def main(argv: list[str]) -> None:
    if "--version" in argv:
        print("hivmc: the host CANN's stand-in")
        return
    hivm, output = Path(argv[0]).read_text(), Path(argv[argv.index("-o") + 1] + ".o")
    try:
        output.write_bytes(compiled(hivm))
    except (program.Unknown, lower.Refused) as refused:
        sys.exit(f"error: hivmc: {refused}")


def compiled(hivm: str) -> bytes:
    """The shared object, kept under a hash of the program; the program itself is beside it."""
    home = environment.home()
    key = hashlib.sha256(hivm.encode()).hexdigest()
    kept = environment.compiled(key)
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        own = kept.with_suffix(f".{os.getpid()}")
        made(hivm, key, home, own)
        kept.with_suffix(".hivm").write_text(hivm)
        own.replace(kept)  # last, and whole or not at all, whoever compiles the same beside us
    return kept.read_bytes()


def made(hivm: str, key: str, home: Path, output: Path) -> None:
    if needs_library_calls(hivm):
        hivm = lower.to_calls(hivm, home / "ascendnpuir" / "bin" / "bishengir-opt")
    name, types = program.kernel(hivm)
    refused = json.loads((home / "vectorcore" / library.REFUSED).read_text())
    for function in sorted(program.called(hivm)):
        if function in refused:
            raise program.Unknown(
                f"kernel {name} calls {function}, which needs {', '.join(refused[function])}: not implemented"
            )
    module = program.rewrite(hivm, name)
    lower.to_shared_object(module, name, entry.source(name, types, key), home, output)


def needs_library_calls(hivm: str) -> bool:
    """Whether it is a program of compiler 1.0.0, which leaves vector operations and transfers to ``hivmc``."""
    return any(f"hivm.hir.{name} " in hivm for name in ("load", "store", "copy", "vcast", "vmul", "vadd", "vbrc"))


if __name__ == "__main__":
    main(sys.argv[1:])
