"""MLIR -> LLVM -> object -> shared object: the wheel's and the distribution's tools."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

from . import library

PASSES = (
    *("--lower-affine", "--convert-scf-to-cf", "--expand-strided-metadata", "--lower-affine", "--convert-cf-to-llvm"),
    *("--convert-arith-to-llvm", "--convert-math-to-llvm", "--convert-index-to-llvm", "--finalize-memref-to-llvm"),
    *("--convert-func-to-llvm", "--reconcile-unrealized-casts"),
)


class Refused(RuntimeError):
    """The input cannot be compiled; the message is the tool's."""


def tool(*command: str | Path, data: str | None = None) -> str:
    done = subprocess.run([str(c) for c in command], input=data, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{Path(command[0]).name}: {done.stderr.strip()[:2000]}")
    return done.stdout


def to_calls(hivm: str, opt: Path) -> str:
    """A program of compiler 1.0.0, whose vector operations are not calls of the library yet, as one of a later one."""
    return tool(opt, "-", "--convert-hivm-to-std", data=hivm)


def to_shared_object(module: str, name: str, entry: str, home: Path, output: Path) -> None:
    """``home`` holds the compiled library; ``entry`` is the C source of the kernel's entry."""
    # The wheel's own tool: its verifier lets shapes collapse that upstream's does not.
    lowered = tool(home / "ascendnpuir" / "bin" / "bishengir-opt", "-", *PASSES, data=module)
    llvm = _scalars_told(tool("mlir-translate-19", "--mlir-to-llvmir", data=lowered), name)
    llvm = _all_arguments(llvm, json.loads((home / "vectorcore" / library.PARAMETERS).read_text()))
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp)
        (path / "kernel.ll").write_text(llvm)
        (path / "entry.c").write_text(entry)
        tool("opt-19", "-passes=default<O1>", path / "kernel.ll", "-o", path / "kernel.bc")
        options = ("-O1", "--fp-contract=off", "-relocation-model=pic", "-filetype=obj")
        tool("llc-19", *options, path / "kernel.bc", "-o", path / "kernel.o")
        linked = (f"-L{home}/vectorcore", "-lvectorcore", f"-Wl,-rpath,{home}/vectorcore")
        tool("gcc", "-O1", "-w", "-fPIC", "-shared", path / "kernel.o", path / "entry.c", *linked, "-lm", "-o", output)


def _scalars_told(llvm: str, name: str) -> str:
    """The kernel's own loads and stores are the scalar unit's: each is told to ``core_scalar`` before it happens."""
    lines, inside = [], False
    for line in llvm.splitlines():
        if line.startswith("target "):
            continue
        if line.startswith("define"):
            inside = re.search(rf"@{re.escape(name)}\(", line) is not None
        if inside and (found := re.match(r"\s+(?:%\S+ = (load)|store) (\w+)\b.*?, ptr ([^,\s]+)", line)):
            size, stores = library.SIZES[found[2]], int(found[1] is None)
            lines.append(f"  call void @core_scalar(ptr {found[3]}, i64 {size}, i32 {stores})")
        lines.append(line)
    return "\n".join([*lines, "declare void @core_scalar(ptr, i64, i32)", ""])


ABSENT = {"ptr": "ptr @core_nothing", "i32": "i32 0"}  # no temporary buffer, no cache hint


def _all_arguments(llvm: str, parameters: dict[str, list[str]]) -> str:
    """Calls of library functions with what programs leave out at the end: a newer library takes more."""

    def completed(found: re.Match[str]) -> str:
        head, name, given = found[1], found[2], found[3].split(", ")
        wanted = parameters.get(name, [])[len(given) :]
        declares = head.startswith("declare")
        return f"{head}{name}({', '.join([*given, *(kind if declares else ABSENT[kind] for kind in wanted)])})"

    llvm = re.sub(rf"((?:declare|call) void @{library.PREFIX})(\w+)\(([^()]*)\)", completed, llvm)
    return llvm + "@core_nothing = external global [256 x i8]\n"
