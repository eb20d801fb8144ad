"""Lay out a host CANN for the Python environment that runs this file, once, under ``.cache/host_cann``.

    python -m tests.host_cann.build      # prints the folder

The folder's name is a hash of everything that went in (these sources, the wheels' versions, where they lie), so a
change builds anew and an unchanged one costs milliseconds. Nothing is written outside the checkout.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import chips, stubs

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "host_cann"
TOOLS = {  # program -> Debian package
    "gcc": "gcc",
    "g++": "g++",
    "nm": "binutils",
    "readelf": "binutils",
    "strings": "binutils",
    "mlir-opt-19": "mlir-19-tools",
    "mlir-translate-19": "mlir-19-tools",
    "llc-19": "llvm-19",
    "opt-19": "llvm-19",
}
PACKAGES = {"torch": "torch", "torch_npu": "torch-npu", "triton": "triton-ascend", "pybind11": "pybind11"}


class Missing(RuntimeError):
    """Something the host CANN is built from is not installed; the message says what and how to get it."""


def check() -> None:
    """Raise ``Missing`` naming every absent tool and package, with the command that installs each."""
    tools = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    packages = [dist for module, dist in PACKAGES.items() if importlib.util.find_spec(module) is None]
    wanted = []
    if tools:
        wanted.append("apt install " + " ".join(sorted(tools)))
    if packages:
        wanted.append("pip install " + " ".join(packages))
    if not wanted and not (site() / "triton" / "backends" / "ascend").is_dir():
        wanted.append(
            "pip uninstall triton; pip install --force-reinstall --no-deps triton-ascend==3.2.0"
            "   # mainline triton has overwritten it"
        )
    if wanted:
        raise Missing("the host CANN needs: " + "; ".join(wanted))


def site() -> Path:
    """The folder torch_npu is installed in, found without importing it."""
    return Path(importlib.util.find_spec("torch_npu").origin).parents[1]


def key() -> str:
    """The folder's name: whose it is (environments layered over one torch-npu share it), and of what it is made."""
    owner = hashlib.sha256(str(site()).encode()).hexdigest()[:8]
    digest = hashlib.sha256()
    for dist in ("torch", "torch-npu", "triton-ascend"):
        digest.update(importlib.metadata.version(dist).encode())
    inputs = [HERE / "build.py", HERE / "stubs.py", HERE / "chips.py"]
    for path in sorted([*inputs, *HERE.glob("runtime/**/*.[ch]"), *HERE.glob("compiler/*.py")]):
        digest.update(path.read_bytes())
    return f"{owner}-{digest.hexdigest()[:16]}"


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def build_programs(out: Path) -> None:
    """The two programs triton-ascend looks for on PATH."""
    (out / "bin").mkdir()
    script(out / "bin" / "bisheng", "echo hiipu64  # the target whose presence makes triton-ascend's driver active")
    root = HERE.parents[1]
    script(
        out / "bin" / "bishengir-compile",
        f'PYTHONPATH="{root}" exec "{sys.executable}" -m tests.host_cann.compiler "$@"',
    )


def build_headers(out: Path) -> None:
    acl = site() / "torch_npu" / "include" / "third_party" / "acl" / "inc"
    shutil.copytree(HERE / "runtime" / "include", out / "include" / "experiment")
    (out / "include" / "acl").symlink_to(acl / "acl")


def build_library(out: Path) -> None:
    """``libascendcl.so``: the runtime and the stubs. Everything else is an empty library that leads to it."""
    (out / "lib64").mkdir()
    (out / "chips.inc").write_text(chips.c_table())
    torch_npu = site() / "torch_npu"
    objects = []
    for path in sorted((HERE / "runtime").glob("*.c")):
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
    implemented = set().union(*(stubs_defined(o) for o in objects))
    libraries = list(torch_npu.rglob("*.so"))
    names = stubs.linked(libraries, (site() / "torch" / "lib").glob("*.so*"))
    headers = torch_npu / "include" / "third_party"
    (out / "stubs.cpp").write_text(stubs.source(names - implemented, stubs.returns_pointer(headers)))
    library = out / "lib64" / "libascendcl.so"
    run("g++", "-shared", "-fPIC", "-w", "-Wl,-soname,libascendcl.so", *objects, out / "stubs.cpp", "-o", library)
    for name in empty_libraries(libraries):
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


def stubs_defined(obj: Path) -> set[str]:
    return {line.split()[-1] for line in run("nm", "--defined-only", "-g", obj).splitlines() if line}


def empty_libraries(libraries: list[Path]) -> list[str]:
    """The CANN libraries that torch-npu links, or opens by name, and that nobody brings."""
    text = "".join(run("readelf", "-d", p) for p in libraries)
    needed = set(re.findall(r"NEEDED.*\[(lib[a-z_]+\.so)\]", text))
    brought = {p.name for p in [*libraries, *(site() / "torch" / "lib").glob("*.so*")]}
    return sorted(needed - brought - {"libascendcl.so"} | {"libruntime.so"})


def ensure() -> Path:
    """The built folder; builds it first if there is none for these sources and this environment."""
    check()
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    with open(CACHE / "lock", "w") as lock:  # test processes may start together
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = CACHE / key()
        if not done.is_dir():
            out = CACHE / f"{key()}.partial"
            shutil.rmtree(out, ignore_errors=True)
            for folder in ("opp", "runtime", "compiler", "include"):  # torch-npu looks whether they exist
                (out / folder).mkdir(parents=True)
            build_programs(out)
            build_headers(out)
            build_library(out)
            out.rename(done)
            for stale in CACHE.glob(f"{key().split('-')[0]}-*"):  # each holds hundreds of MiB of compiled headers
                if stale != done:
                    shutil.rmtree(stale)
        return done


if __name__ == "__main__":
    try:
        print(ensure())
    except Missing as missing:
        sys.exit(str(missing))
