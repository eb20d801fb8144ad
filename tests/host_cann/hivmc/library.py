"""The vendor's library of vector functions (``ascendnpu-ir``'s bitcode) as code of this host, built once.

Its intrinsics become ordinary functions, ``llvm.hivm.VADD.f32`` is ``hivm_VADD_f32`` in ``core/``; a scalar load or
store of the unified buffer or of global memory is told to ``core_scalar`` first. Functions that reach an instruction
which ``core/`` does not have are listed in a file, and a program that calls one is refused.
"""

import collections
import json
import re
import subprocess
from pathlib import Path

CORE = Path(__file__).parent / "core"
BITCODE = "lib/meta_op.aiv.c220.bc"  # of A2 and A3
# Of these too, but the other file lacks them, though programs of 1.2.0 call them.
LATER, LATER_BITCODE = ("reduce_sum_ara_float",), "lib/meta_op.aiv.bc"
NAME = "libvectorcore.so"
REFUSED = "refused.json"
PARAMETERS = "parameters.json"
PREFIX = "_mlir_ciface_"
SIZES = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "bfloat": 2, "i32": 4, "float": 4, "i64": 8, "double": 8, "ptr": 8}
INTRINSIC = re.compile(r"@llvm\.hivm\.([A-Za-z0-9_.]+)")
LAYOUT = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"


def build(out: Path, wheel: Path) -> Path:
    """Make ``out/libvectorcore.so``, ``out/refused.json`` and ``out/parameters.json`` (the types of its functions'
    parameters) of the library in the ascendnpu-ir folder ``wheel``."""
    out.mkdir(parents=True, exist_ok=True)
    objects = core(out)
    texts = {"library": _run("llvm-dis-19", wheel / BITCODE, "-o", "-"), "later": later(out, wheel)}
    compiled = [_compiled(out / name, hosted(text)) for name, text in texts.items()]
    wanted = {n for o in compiled for n in _symbols(o, "--undefined-only") if n.startswith(("hivm_", "_Z"))}
    lacking = wanted.difference(*(_symbols(o, "--defined-only") for o in objects))
    parameters: dict[str, list[str]] = {}
    refused: dict[str, list[str]] = {}
    for text in texts.values():
        parameters |= _parameters(text)
        refused |= _refused(_calls(text), lacking)
    (out / PARAMETERS).write_text(json.dumps(parameters, indent=0, sort_keys=True))
    (out / REFUSED).write_text(json.dumps(refused, indent=0, sort_keys=True))
    # Refused before they could be called, but the loader wants them all.
    (out / "lacking.c").write_text('#include "core.h"\n' + "\n".join(map(_lacking, sorted(lacking))))
    shared = ("-shared", "-fPIC", f"-I{CORE}", f"-Wl,-soname,{NAME}", out / "lacking.c")
    _run("gcc", *shared, *objects, *compiled, "-lm", "-o", out / NAME)
    return out / NAME


def later(out: Path, wheel: Path) -> str:
    """LLVM of the functions in ``LATER``, with what they call as their own: the other file has it in older forms."""
    wanted = [f"--func={PREFIX}{name}" for name in LATER]
    _run("llvm-extract-19", "--recursive", *wanted, wheel / LATER_BITCODE, "-o", out / "later.bc")
    text = _run("llvm-dis-19", out / "later.bc", "-o", "-")
    (out / "later.bc").unlink()
    text = re.sub(rf"^define (?:weak_odr )?dso_local (?!.*@{PREFIX})", "define internal ", text, flags=re.M)
    return re.sub(r" comdat \{$", " {", text, flags=re.M)


def _compiled(path: Path, text: str) -> Path:
    source, made = path.with_suffix(".ll"), path.with_suffix(".o")
    source.write_text(text)
    _run("llc-19", "-O1", "--fp-contract=off", "-relocation-model=pic", "-filetype=obj", source, "-o", made)
    source.unlink()
    return made


def core(out: Path) -> list[Path]:
    """Compile ``core/``; its objects."""
    options = ("-c", "-O2", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-ffp-contract=off")
    made = []
    for source in sorted(CORE.glob("*.c")):
        made.append(out / f"{source.stem}.o")
        _run("gcc", *options, source, "-o", made[-1])
    return made


def hosted(text: str) -> str:
    """The library's LLVM for this host."""
    lines = []
    for line in text.splitlines():
        if found := re.match(
            r"\s+(?:%\S+ = load|store) (?:volatile )?(\w+)\b.*?, ptr addrspace\(([16])\) ([^,]+)", line
        ):
            size, space, place = SIZES[found[1]], found[2], found[3]
            stores = int("store" in found.group().split("=")[-1].split()[0])
            lines.append(f"  call void @core_scalar{space}(ptr addrspace({space}) {place}, i64 {size}, i32 {stores})")
        if INTRINSIC.search(line):
            # What an intrinsic promises of memory does not hold for a function with registers and a clock.
            line = re.sub(r" (?:nocapture|writeonly|readonly|readnone|noalias)\b", "", line)
            line = re.sub(r" #\d+", "", line)
            line = INTRINSIC.sub(lambda name: "@hivm_" + name[1].replace(".", "_"), line)
        lines.append(line)
    # No temporary buffer: the library reads the fields of what it is handed all the same, and uses none of them.
    text = re.sub(r"ptr noundef null(?=\)|, i32 noundef)", "ptr noundef @core_nothing", "\n".join(lines))
    text = re.sub(r"store ptr null(?=, ptr %xor_additional_tmp_buf)", "store ptr @core_nothing", text)
    text = re.sub(r'target datalayout = ".*"', f'target datalayout = "{LAYOUT}"', text)
    text = re.sub(r'target triple = ".*"', 'target triple = "x86_64-unknown-linux-gnu"', text)
    text = re.sub(r'"target-(?:cpu|features)"="[^"]*"', "", text)
    scalars = (f"declare void @core_scalar{s}(ptr addrspace({s}), i64, i32)" for s in (1, 6))
    return text + "\n@core_nothing = external global [256 x i8]\n" + "\n".join(scalars) + "\n"


def _lacking(name: str) -> str:
    return f'void {name}(void) {{ core_fail("{name}: not implemented"); }}'


def _parameters(text: str) -> dict[str, list[str]]:
    found = re.findall(rf"^define .*?@{PREFIX}(\w+)\((.*?)\) ", text, re.M)
    return {name: [p.split()[0] for p in parameters.split(", ")] for name, parameters in found}


def _calls(text: str) -> dict[str, set[str]]:
    """Which functions each function of the library calls, by their names on this host."""
    calls, current = collections.defaultdict(set), None
    for line in text.splitlines():
        if line.startswith("define"):
            current = re.search(r'@"?([\w.$]+)"?\(', line)[1]
        elif line.startswith("}"):
            current = None
        elif current and "call" in line:
            for name in re.findall(r'@"?([\w.$]+)"?\(', line):
                calls[current].add("hivm_" + name[10:].replace(".", "_") if name.startswith("llvm.hivm.") else name)
    return calls


def _refused(calls: dict[str, set[str]], lacking: set[str]) -> dict[str, list[str]]:
    """For each function that programs may call, the instructions that it reaches and ``core/`` lacks, if any."""
    reached: dict[str, set[str]] = {name: called & lacking for name, called in calls.items()}
    changed = True
    while changed:
        changed = False
        for name, called in calls.items():
            more = reached[name].union(*(reached[c] for c in called if c in reached))
            changed |= more != reached[name]
            reached[name] = more
    return {
        name.removeprefix(PREFIX): sorted(found) for name, found in reached.items() if found and name.startswith(PREFIX)
    }


def _symbols(obj: Path, which: str) -> set[str]:
    return {line.split()[-1] for line in _run("nm", which, "-g", obj).splitlines() if line}


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout
