"""Runs Huawei's own back-end compiler on one kernel: is it accepted, with which notes, and in how many bytes?

    compiled = compile(front_end.linalg(kernel, ...), installed()[-1], chips.CHIPS["910B3"])
    assert compiled.ok and not compiled.notes and compiled.ub_bytes < 192 * 1024

The wheel ``ascendnpu-ir`` brings all of the compiler but ``hivmc``, its last step, which it starts from PATH. Here a
script stands there that keeps what it is given: the final program, in which every buffer has its address. So the
compiler's verdict is real, and needs neither a device nor the host CANN; what ``hivmc`` would say is not known.

triton-ascend's own function calls it, so the options are those of a real compilation, whatever the version offers.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from . import final_program
from .chips import Chip

VENVS = Path(__file__).parents[2] / ".venvs"
MISSING = "no Ascend compiler: pip install ascendnpu-ir, or bash -c '. scripts/environments.sh; compiler 1.2.0'"


@dataclass(frozen=True)
class Compiler:
    version: str  # of ascendnpu-ir: 1.0.0 is in CANN 8.5, 1.1.0 in 9.0, 1.2.0 in 9.1
    program: Path
    for_950: bool = False

    def __str__(self) -> str:
        return self.version + ("-a5" if self.for_950 else "")


@dataclass(frozen=True)
class Compiled:
    notes: tuple[str, ...]  # what the compiler changed by itself to try again, whether it then fitted or not
    error: str | None  # the first line, without source locations
    required_bits: int | None  # if an overflow message names them
    program: str | None  # the input of hivmc

    @property
    def ok(self) -> bool:
        return self.program is not None

    @property
    def ub_bytes(self) -> int | None:
        return None if self.program is None else final_program.ub_bytes(self.program)

    @property
    def ub_available(self) -> int | None:
        return None if self.program is None else final_program.ub_available(self.program)


def installed() -> tuple[Compiler, ...]:
    """The installed compilers, oldest first: this Python's, and those that ``compiler VERSION`` of
    ``scripts/environments.sh`` has put beside the environments."""
    folders = {path.name.removeprefix("ascendnpu-ir-"): path / "ascendnpuir" for path in VENVS.glob("ascendnpu-ir-*")}
    if spec := importlib.util.find_spec("ascendnpuir"):
        folders[importlib.metadata.version("ascendnpu-ir")] = Path(spec.origin).parent
    programs = (Compiler(version, folders[version] / "bin" / "bishengir-compile") for version in sorted(folders))
    return tuple(compiler for compiler in programs if compiler.program.exists())


def for_950() -> tuple[Compiler, ...]:
    """The extra programs for the 950 that versions from 1.1.0 on contain."""
    beside = (Compiler(c.version, c.program.with_name("bishengir-compile-a5"), True) for c in installed())
    return tuple(compiler for compiler in beside if compiler.program.exists())


def options_of(compiler: Compiler) -> dict[str, bool]:
    """triton-ascend's options for that compiler: the defaults, or for the 950 what its source makes of a constant that
    is False in the package as published."""
    if not compiler.for_950:
        return {}
    changed = dict.fromkeys(("compile_on_910_95", "enable_select_analysis"), True)
    return changed | dict.fromkeys(("multibuffer", "enable_auto_bind_sub_block"), False)


def compile(linalg: str, compiler: Compiler, chip: Chip) -> Compiled:
    """``linalg`` compiled for ``chip`` as triton-ascend would. Not for threads: it changes this process's PATH."""
    from triton.backends.ascend import compiler as backend
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("npu", chip.soc_name, 0)
    metadata = {"target": target, **vars(backend.AscendBackend(target).parse_options(options_of(compiler)))}
    call = backend.linalg_to_bin_enable_npu_compile_A2_A3
    if compiler.for_950:
        call = backend.linalg_to_bin_enable_npu_compile_910_95
    device = SimpleNamespace(get_arch=lambda: chip.soc_name)
    with tempfile.TemporaryDirectory() as kept:
        path = os.pathsep.join([_programs(compiler).name, os.environ["PATH"]])
        environment = mock.patch.dict(os.environ, PATH=path, KEPT=kept, TMPDIR=kept)  # a crash leaves files in TMPDIR
        with environment, mock.patch.object(backend, "NPUUtils", return_value=device):
            try:
                program = call(linalg, metadata, None).decode()
            except subprocess.CalledProcessError:
                program = None
        said = (Path(kept) / "said").read_text()
    return verdict(said, program)


def verdict(said: str, program: str | None) -> Compiled:
    """The facts from its output and from the program, if it made one."""
    notes = [line for line in said.splitlines() if line.startswith("[NOTE]")]
    errors = [error for error in re.findall(r"error: (.*)", said) if not error.startswith("Failed to run")]
    errors += re.findall(r"Assertion .*", said) + re.findall(r"\[ERROR\] (.*)", said) or [said.strip()[:200]]
    error = errors[0].split(" (possible reason")[0]
    overflow = re.search(r"ub overflow, requires (\d+) bits", error)
    if program is not None and "error: " in said:  # older versions try again without a note
        notes.append(f"taken at another attempt, after: {error}")
    refused = None if program is not None else error
    return Compiled(tuple(notes), refused, int(overflow[1]) if refused and overflow else None, program)


@functools.cache
def _programs(compiler: Compiler) -> tempfile.TemporaryDirectory[str]:
    """A folder for PATH. The compiler goes by the name triton-ascend knows, keeps what it says (triton-ascend would
    drop it), and answers ``--help``, asked twice a kernel, from a file; ``hivmc`` hands on its input as its output."""
    folder = tempfile.TemporaryDirectory(prefix="bishengir-")
    at, program = Path(folder.name), shlex.quote(str(compiler.program))
    (at / "help").write_text(subprocess.run([compiler.program, "--help"], capture_output=True, text=True).stdout)
    scripts = {
        "bishengir-compile": f'[ "$1" = --help ] && exec cat {at}/help\nexec {program} "$@" >"$KEPT/said" 2>&1',
        "hivmc": f'case "$*" in *--version*) exec echo "hivmc {compiler.version}" ;; esac\nfrom=$1\n'
        'while [ "$1" != -o ]; do shift; done\ncp "$from" "$2.o" && cp "$from" "$2_reloc.o"',
    }
    scripts["hivmc-a5"] = scripts["hivmc"]
    for name, text in scripts.items():
        (at / name).write_text(f"#!/bin/sh\n{text}\n")
        (at / name).chmod(0o755)
    return folder
