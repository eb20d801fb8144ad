"""Linalg on tensors -> buffers -> LLVM -> object -> shared object, with the distribution's MLIR and LLVM tools."""

import subprocess
import tempfile
from pathlib import Path

BUFFERISE = """
--convert-elementwise-to-linalg --eliminate-empty-tensors --empty-tensor-to-alloc-tensor
--one-shot-bufferize=allow-return-allocs-from-loops=true --canonicalize --cse
"""

LOWER = """
--buffer-deallocation-pipeline --convert-bufferization-to-memref --convert-linalg-to-loops --expand-strided-metadata
--lower-affine --convert-scf-to-cf --convert-cf-to-llvm --convert-math-to-libm --arith-expand=include-bf16=true
--convert-math-to-llvm --convert-arith-to-llvm --convert-index-to-llvm --finalize-memref-to-llvm --convert-func-to-llvm
--reconcile-unrealized-casts
"""


# Enough that address arithmetic leaves the inner loops: all of -O2 takes ten times as long and tests run a kernel once.
OPTIMISE = "function(sroa,early-cse,loop-mssa(licm))"


class Refused(RuntimeError):
    """The input cannot be compiled; the message is the tool's."""


def tool(*command: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode:
        raise Refused(f"{command[0]}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def to_object(linalg: str) -> bytes:
    """Machine code for the kernel's function."""
    lowered = tool("mlir-opt-19", "-", *BUFFERISE.split(), *LOWER.split(), data=linalg.encode())
    llvm = tool("mlir-translate-19", "--mlir-to-llvmir", data=lowered)
    optimised = tool("opt-19", f"-passes={OPTIMISE}", data=llvm)
    # Never contract a*b+c: see the package's docstring.
    options = ("-O1", "--fp-contract=off", "-relocation-model=pic", "-filetype=obj")
    return tool("llc-19", *options, "-", "-o", "-", data=optimised)


def link(obj: bytes, entry: str, output: Path) -> None:
    """The shared object: the kernel and the C entry that the runtime calls."""
    with tempfile.TemporaryDirectory() as tmp:
        Path(f"{tmp}/kernel.o").write_bytes(obj)
        Path(f"{tmp}/entry.c").write_text(entry)
        tool("gcc", "-O2", "-w", "-fPIC", "-shared", f"{tmp}/kernel.o", f"{tmp}/entry.c", "-lm", "-o", str(output))
