"""Lay out a host CANN for the Python environment that runs this file, once, under ``.cache/host_cann``.

    python -m tests.host_cann.build      # prints the folder

The folder's name is a hash of everything that went in (these sources, the wheels' versions, where they lie), so a
change builds anew and an unchanged one costs milliseconds. Once another is made, builds that no process uses are
deleted. Nothing is written outside the checkout.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from . import environment, library
from .hivmc import library as vector_library

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "host_cann"
TOOLS = {  # program -> Debian package
    "gcc": "gcc",
    "g++": "g++",
    "nm": "binutils",
    "readelf": "binutils",
    "strings": "binutils",
    "mlir-translate-19": "mlir-19-tools",
    "llc-19": "llvm-19",
    "llvm-dis-19": "llvm-19",
    "llvm-extract-19": "llvm-19",
    "opt-19": "llvm-19",
}
HEADERS, LAUNCHERS = "precompiled.h.gch", "launcher_*.so"  # what triton-ascend has g++ compile, in Triton's cache
USERS = "users"  # a file in each build; whoever uses the build keeps it locked
VERSION = "1.2.0"  # of the vendor's library that kernels run with, whichever version of the compiler made them
PACKAGES = {"torch": "torch", "torch_npu": "torch-npu", "triton": "triton-ascend", "pybind11": "pybind11"}
PACKAGES["ascendnpuir"] = f"ascendnpu-ir=={VERSION}"


_held: dict[Path, TextIO] = {}


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
    inputs = [HERE / f"{name}.py" for name in ("build", "library", "stubs", "chips")]
    sources = [*HERE.glob("runtime/**/*.[ch]"), *HERE.glob("hivmc/*.py"), *HERE.glob("hivmc/core/*.[ch]")]
    for path in sorted([*inputs, *sources]):
        digest.update(path.read_bytes())
    return f"{owner}-{digest.hexdigest()[:16]}"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def build_programs(out: Path) -> None:
    """What the back-end compiler and triton-ascend look for on PATH."""
    (out / "bin").mkdir()
    script(out / "bin" / "bisheng", "echo hiipu64  # the target whose presence makes triton-ascend's driver active")
    # The standard library is all it needs: no site packages, which cost more than its own work.
    command = f'PYTHONPATH="{HERE.parents[1]}" exec "{sys.executable}" -S -m tests.host_cann.hivmc "$@"'
    script(out / "bin" / "hivmc", command)


def build_vector_core(out: Path) -> None:
    """The vendor's library of vector functions, for this host."""
    (out / "ascendnpuir").symlink_to(site() / "ascendnpuir")
    vector_library.build(out / "vectorcore", out / "ascendnpuir")


def build_headers(out: Path) -> None:
    acl = site() / "torch_npu" / "include" / "third_party" / "acl" / "inc"
    shutil.copytree(HERE / "runtime" / "include", out / "include" / "experiment")
    (out / "include" / "acl").symlink_to(acl / "acl")


def first_launches(out: Path) -> None:
    """Launch a kernel in both of triton-ascend's modes: for each it compiles a header, some 35 seconds, and processes
    that did so at the same time would read each other's half-written file."""
    launch = (
        "from tests.host_cann import fixture, sample_kernels\n"
        "x = fixture.initialise().zeros(1).npu()\n"
        "sample_kernels.add_one[(1,)](x, 1, BLOCK=1)\n"
        "assert x.item() == 1"
    )
    modes = [environment.variables(out) | {"TRITON_ENABLE_TASKQUEUE": mode} for mode in ("true", "false")]
    started = [subprocess.Popen([sys.executable, "-c", launch], env=mode, stderr=subprocess.PIPE) for mode in modes]
    said = [process.communicate()[1].decode() for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("the first launch on the host CANN failed:\n" + "\n".join(said))


def share(out: Path, cache: Path, *kinds: str) -> None:
    """Make a Triton cache that finds there what g++ has compiled so far, 35 seconds a header: that does not depend on
    the back-end compiler, for whose versions there are several caches."""
    cache.mkdir(exist_ok=True)
    for made in (made for kind in kinds for made in out.glob(f"triton-cache-*/*/{kind}")):
        if not (here := cache / made.parent.name).exists():
            here.symlink_to(made.parent.resolve())


def make(out: Path) -> None:
    """Build into ``out``, which does not exist."""
    for folder in ("opp", "runtime", "compiler", "include"):  # torch-npu looks whether they exist
        (out / folder).mkdir(parents=True)
    build_programs(out)
    build_headers(out)
    build_vector_core(out)
    library.build(out, site())
    first_launches(out)


def hold(out: Path) -> None:
    """Keep others from deleting the build at ``out`` as long as this process lives, or what it becomes by ``exec``."""
    if out in _held:
        return
    _held[out] = open(out / USERS, "a")  # noqa: SIM115  closed with the process
    os.set_inheritable(_held[out].fileno(), True)
    fcntl.flock(_held[out], fcntl.LOCK_SH)


def delete_unused(builds: Iterable[Path]) -> None:
    """Delete those that no living process holds: each has hundreds of MiB of compiled headers."""
    for out in builds:
        with open(out / USERS, "a") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(out)


def ensure() -> Path:
    """The built folder, held; builds it first if there is none for these sources and this environment."""
    check()
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    with open(CACHE / "lock", "w") as lock:  # test processes may start together; builds are held and deleted under it
        fcntl.flock(lock, fcntl.LOCK_EX)
        out = CACHE / key()
        if not (out / "complete").exists():
            delete_unused(CACHE.glob(f"{key().split('-')[0]}-*"))
            make(out)
            (out / "complete").touch()
        if not environment.triton_cache(out).exists():
            share(out, environment.triton_cache(out), HEADERS, LAUNCHERS)
        hold(out)
        return out


if __name__ == "__main__":
    try:
        print(ensure())
    except Missing as missing:
        sys.exit(str(missing))
