"""``libascendcl.so``: the runtime, and a stub for every symbol it lacks; and what torch-npu links beside it."""

import re
import subprocess
from pathlib import Path

from . import chips, stubs

RUNTIME = Path(__file__).parent / "runtime"


def build(out: Path, site: Path) -> None:
    """The libraries, into ``out``. Everything but ``libascendcl.so`` is an empty library that leads to it."""
    (out / "lib64").mkdir()
    (out / "chips.inc").write_text(chips.c_table())
    torch_npu = site / "torch_npu"
    objects = []
    for path in sorted(RUNTIME.glob("*.c")):
        objects.append(out / f"{path.stem}.o")
        run(
            "gcc",
            "-c",
            "-O2",
            "-g",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-std=gnu11",
            "-fexceptions",
            f"-I{out}",
            f"-I{out}/include",
            f"-I{out}/include/experiment",
            f"-isystem{torch_npu}/include",
            f'-DHOST_DEFAULT_CHIP="{chips.DEFAULT}"',
            path,
            "-o",
            objects[-1],
        )
    implemented = set().union(*(defined(o) for o in objects))
    libraries = list(torch_npu.rglob("*.so"))
    names = stubs.linked(libraries, (site / "torch" / "lib").glob("*.so*"))
    headers = torch_npu / "include" / "third_party"
    (out / "stubs.cpp").write_text(stubs.source(names - implemented, stubs.returns_pointer(headers)))
    library = out / "lib64" / "libascendcl.so"
    run("g++", "-shared", "-fPIC", "-w", "-Wl,-soname,libascendcl.so", *objects, out / "stubs.cpp", "-o", library)
    for name in empty_libraries(libraries, site):
        run(
            "gcc",
            "-shared",
            "-fPIC",
            "-xc",
            "/dev/null",
            f"-Wl,-soname,{name}",
            "-Wl,--no-as-needed",
            f"-L{out}/lib64",
            "-lascendcl",
            "-o",
            out / "lib64" / name,
        )


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def defined(obj: Path) -> set[str]:
    return {line.split()[-1] for line in run("nm", "--defined-only", "-g", obj).splitlines() if line}


def empty_libraries(libraries: list[Path], site: Path) -> list[str]:
    """The CANN libraries that torch-npu links, or opens by name, and that nobody brings."""
    text = "".join(run("readelf", "-d", p) for p in libraries)
    needed = set(re.findall(r"NEEDED.*\[(lib[a-z_]+\.so)\]", text))
    brought = {p.name for p in [*libraries, *(site / "torch" / "lib").glob("*.so*")]}
    return sorted(needed - brought - {"libascendcl.so"} | {"libruntime.so"})
