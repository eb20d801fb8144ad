"""The environment variables under which torch-npu and triton-ascend find the host CANN.

They must be set before the process starts: the dynamic loader reads ``LD_LIBRARY_PATH`` once. ``run.py`` starts a
process with them; ``fixture.py`` skips, or fails, in a process without.
"""

import importlib.util
import os
from pathlib import Path

MARK = "HOST_CANN_HOME"  # set in a process that runs on the host CANN


def variables(home: Path, chip: str | None = None) -> dict[str, str]:
    """A full environment for a child process, derived from this one."""
    env = dict(os.environ)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # as in tests/conftest.py
    env.update(
        {
            MARK: str(home),
            "ASCEND_HOME_PATH": str(home),
            "ASCEND_OPP_PATH": str(home / "opp"),
            "LD_LIBRARY_PATH": prepend(str(home / "lib64"), env.get("LD_LIBRARY_PATH")),
            "PATH": prepend(f"{compiler() / 'bin'}{os.pathsep}{home / 'bin'}", env.get("PATH")),
            # So that a script in another folder finds this checkout's rope_patch and tests.
            "PYTHONPATH": prepend(str(Path(__file__).parents[2]), env.get("PYTHONPATH")),
            "TRITON_CACHE_DIR": str(triton_cache(home)),
            # Otherwise torch would import torch_npu at the end of its import; tests decide when.
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
            "TRITON_INTERPRET": "0",  # tests without an NPU may have set it
        }
    )
    if chip is not None:
        env["HOST_CANN_CHIP"] = chip
    return env


def home() -> Path:
    """The built folder that this process runs on; ``KeyError`` if it does not run on the host CANN."""
    return Path(os.environ[MARK])


def compiled(key: str) -> Path:
    """Where the stand-in for ``hivmc`` keeps the shared object of the program with that hash; the program itself is
    beside it, with ``.hivm``. Part of the built folder, so made anew when that stand-in changes."""
    return home() / "compiled" / f"{key}.so"


def triton_cache(home: Path) -> Path:
    """One for each back-end compiler, whose version is not in the key of Triton's cache."""
    return home / f"triton-cache-{version()}"


def compiler() -> Path:
    """The folder of Ascend's back-end compiler (package ascendnpu-ir) in this Python's environment."""
    return Path(importlib.util.find_spec("ascendnpuir").origin).parent


def version() -> str:
    """Its version, such as "1.0.0"."""
    (found,) = compiler().parent.glob("ascendnpu_ir-*.dist-info")
    return found.name.split("-")[1].removesuffix(".dist")


def prepend(folder: str, path: str | None) -> str:
    return os.pathsep.join([folder, path]) if path else folder


def active() -> bool:
    """Is this process running on the host CANN?"""
    return MARK in os.environ
