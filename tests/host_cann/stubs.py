"""Stubs for every CANN symbol that torch-npu's libraries link and the runtime does not implement.

torch-npu is linked with immediate binding: it does not load unless every symbol exists. The list is read from the
installed wheel's own symbol tables, so it is never checked in. A stub never pretends: it prints its name, leaves it for
``aclGetRecentErrMsg`` and fails in the way its caller can see (an error code, a null pointer, a C++ exception).

Functions that torch-npu looks up *by name* at run time and that the runtime lacks get no stub: an absent name is what
an older CANN looks like, and torch-npu then takes its older path or raises an exception with the name. A stub would
make it believe in a newer CANN.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

# The parts of the C library and C++ runtime that define what is left of the wheel's undefined symbols.
SYSTEM = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "libdl.so.2")


def symbols(library: Path, which: str) -> set[str]:
    """The dynamic symbols of a library: ``which`` is ``--undefined-only`` or ``--defined-only``. Weak ones may stay
    undefined, so they are not asked for."""
    output = subprocess.run(["nm", "-D", which, str(library)], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in output.splitlines()]
    return {r[-1].split("@")[0] for r in rows if which == "--defined-only" or r[-2] not in "wv"}


def system_libraries() -> list[Path]:
    listing = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^\s*(\S+) \(libc6,x86-64.*\) => (\S+)$", listing, re.M))
    return [Path(found[name]) for name in SYSTEM if name in found]


def linked(libraries: Iterable[Path], providers: Iterable[Path]) -> set[str]:
    """What ``libraries`` need and neither they, nor ``providers``, nor the system defines."""
    libraries = list(libraries)
    needed = set().union(*(symbols(p, "--undefined-only") for p in libraries))
    have = set().union(*(symbols(p, "--defined-only") for p in [*libraries, *providers, *system_libraries()]))
    return {name for name in needed - have if not name.startswith(("Py", "_Py"))}


def returns_pointer(headers: Path) -> set[str]:
    """ACL functions declared to return a pointer: their failure is NULL, not an error code."""
    text = "\n".join(p.read_text(errors="replace") for p in headers.rglob("*.h"))
    return set(re.findall(r"ACL_FUNC_VISIBILITY[\w\s]*\*\s*(\w+)\s*\(", text))


def source(names: Iterable[str], pointers: set[str]) -> str:
    """C++ source of one failing function per name."""
    lines = ["#include <stdexcept>", 'extern "C" int host_unimplemented(const char *);']
    for name in sorted(names):
        if name.startswith("_Z"):  # C++: no error code to give back, but an exception reaches Python as one
            body = f'host_unimplemented("{name}"); throw std::runtime_error("host CANN: {name} is not implemented");'
        elif name in pointers:
            body = f'host_unimplemented("{name}"); return 0;'
        else:
            body = f'return host_unimplemented("{name}");'
        lines.append(f'extern "C" long {name}() {{ {body} }}')
    return "\n".join(lines) + "\n"
