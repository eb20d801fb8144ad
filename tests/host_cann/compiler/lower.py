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


class Refused(RuntimeError):
    """The input cannot be compiled; the message is the tool's."""


def tool(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{command[0]}: {done.stderr}")
    return done.stdout


def bufferise(linalg: str) -> str:
    """Where each tensor lives: the form in which the unified buffer's use can be counted."""
    return tool("mlir-opt-19", "-", *BUFFERISE.split(), text=linalg)


def to_object(bufferised: str) -> bytes:
    """Machine code for the kernel's function."""
    llvm = tool("mlir-translate-19", "--mlir-to-llvmir", text=tool("mlir-opt-19", "-", *LOWER.split(), text=bufferised))
    with tempfile.TemporaryDirectory() as tmp:
        ll, obj = f"{tmp}/kernel.ll", f"{tmp}/kernel.o"
        Path(ll).write_text(tool("opt-19", "-O2", "-S", text=llvm))
        # Never contract a*b+c: see the package's docstring.
        tool("llc-19", "-O2", "--fp-contract=off", "-relocation-model=pic", "-filetype=obj", ll, "-o", obj)
        return Path(obj).read_bytes()


def link(obj: bytes, entry: str, output: Path) -> None:
    """The shared object: the kernel and the C entry that the runtime calls."""
    with tempfile.TemporaryDirectory() as tmp:
        Path(f"{tmp}/kernel.o").write_bytes(obj)
        Path(f"{tmp}/entry.c").write_text(entry)
        tool("gcc", "-O2", "-w", "-fPIC", "-shared", f"{tmp}/kernel.o", f"{tmp}/entry.c", "-lm", "-o", str(output))
