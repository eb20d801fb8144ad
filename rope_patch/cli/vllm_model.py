"""Asks vLLM's own model code how a model rotates, in a process of its own (``vllm_model_process.py``)."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rope_patch import settings
from rope_patch.cli.answer import progress
from rope_patch.cli.config_json import Config
from rope_patch.cli.vllm_model_process import READY

PACKAGES = str(Path(__file__).parents[2])
CODE = "from rope_patch.cli.vllm_model_process import main; main()"
IMPORT_SECONDS = 180  # importing vLLM takes 7 on an idle machine; a model's configuration has no part in it
BUILD_SECONDS = 40  # most models take one; an hostile configuration takes what it gets
# Parts of a configuration that say how weights are stored. No rotary embedding depends on them, but vLLM would ask for
# the kernels of that format, which the device has and the CPU has not.
WEIGHTS = ("quantization_config", "compression_config")


class NotAsked(Exception):
    """vLLM's model code gave no answer; the message says why."""


class Described(NamedTuple):
    """What the process said of a model."""

    rows: list[dict[str, Any]]  # one for each kind of rotary embedding and the heads beside it
    bare: int  # attention layers without a rotary embedding
    others: list[str]  # rotary classes that no attention has beside it


def ask(config: Config, ranks: int) -> Described:
    """What vLLM's own code makes of this configuration, on one of so many ranks.

    Raises:
        NotAsked: there is no vLLM, or it does not build the model, or not within the time and memory that it gets.
    """
    if not isinstance(config.get("architectures"), list) or not config["architectures"]:
        raise NotAsked("config.json names no architectures, by which vLLM finds a model's code")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        model.mkdir()
        Path(model, "config.json").write_text(json.dumps(_without_weights(config)))
        said = _said(str(model), ranks, folder)
    if "error" in said:
        raise NotAsked(said["error"].replace(folder, ""))
    return Described(said["rows"], said["bare"], said["others"])


def _without_weights(config: Config) -> Config:
    return {
        name: _without_weights(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in WEIGHTS
    }


def _said(model: str, ranks: int, folder: str) -> dict[str, Any]:
    # In that folder, since a Python that is given code imports from the folder that it runs in.
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, model, str(ranks)],
        cwd=folder, env=_variables(folder), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        first = _line(process, IMPORT_SECONDS, "importing vLLM, to ask its own model code")
        if first.strip() == READY:
            first = _line(process, BUILD_SECONDS, "vLLM's own code builds the model, without weights")
        said: dict[str, Any] = json.loads(first)
        return said
    finally:
        process.kill()
        process.communicate()
        progress("")


def _line(process: "subprocess.Popen[bytes]", seconds: float, doing: str) -> str:
    """The next line that the process prints, with progress on standard error."""
    assert process.stdout is not None
    line, begin = b"", time.monotonic()
    while not line.endswith(b"\n"):
        took = time.monotonic() - begin
        if took > seconds:
            raise NotAsked(f"{doing}: not done after {seconds:.0f} seconds")
        progress(f"{doing} … {took:.0f} s")
        if select.select([process.stdout], [], [], 1)[0]:
            more = os.read(process.stdout.fileno(), 2**16)
            if not more:
                raise NotAsked(f"{doing}: the process ended by itself ({process.wait()})")
            line += more
    return line.decode()


def _variables(folder: str) -> dict[str, str]:
    """The process's environment variables: vLLM as it is installed, without plug-ins, reports, downloads or caches."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    path = [PACKAGES, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return others | {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, path)),
        settings.VARIABLE: "0",
        "VLLM_PLUGINS": "",
        "VLLM_LOGGING_LEVEL": "CRITICAL",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": folder,
        "VLLM_HOST_IP": "127.0.0.1",  # otherwise vLLM asks the network for its own address
        "HF_HOME": folder,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "CUDA_VISIBLE_DEVICES": "",
    }
