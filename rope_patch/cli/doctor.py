"""Find out whether this environment would run the kernel, and if not, why not and what helps.

Imports vLLM as a process of vLLM's would, and says what became of it. No device is initialised, unless --device asks
for it. Exit status 0: the rotary embedding would be patched; 1: it stays native, or something else is wrong.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from rope_patch.cli import environment
from rope_patch.cli.answer import Answer, table
from rope_patch.cli.environment import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", action="store_true", help="initialise the device too, and show what it is")


def act(options: argparse.Namespace) -> Answer:
    """All findings, and a verdict."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with contextlib.redirect_stdout(sys.stderr):  # for what vLLM and its plugins print while they are imported
        findings = [*environment.findings(), *_of_vllm()]
        findings += [_device() if options.device else Finding("device", None, "not looked at (--device does)")]
    faults = [finding for finding in findings if finding.ok is False]
    applied = _applied()
    verdict = f"would be patched: {', '.join(applied)}" if applied else "vLLM's rotary embedding stays native"
    if faults:
        verdict += f"; {len(faults)} to mend: {', '.join(finding.name for finding in faults)}"
    data = {
        "able": bool(applied) and not faults,
        "verdict": verdict,
        "findings": [finding._asdict() for finding in findings],
        "device_initialised": _initialised(),
    }
    return Answer(ok=bool(applied) and not faults, data=data, text=f"{_text(findings)}\n\n{verdict}")


def _text(findings: list[Finding]) -> str:
    marks = {True: "ok", False: "FAULT", None: ""}
    lines = []
    rows = [(marks[finding.ok], finding.name, finding.found) for finding in findings]
    for line, finding in zip(table(("", "", ""), rows).split("\n")[1:], findings, strict=True):
        lines.append(line)
        if finding.fix:
            lines.append(f"       -> {finding.fix}")
    return "\n".join(lines)


def _of_vllm() -> Iterator[Finding]:
    """What only vLLM itself can tell: its platform, whether it knows our variables, and what the hooks applied."""
    from rope_patch import capability
    from rope_patch.patching import hooks
    from rope_patch.patching.targets import TARGETS

    try:
        import vllm.envs
        import vllm.platforms
    except Exception as error:
        yield Finding("vllm", False, f"{type(error).__name__}: {error}", "pip install vllm vllm-ascend")
        return
    for check in capability.examine().checks:
        yield Finding(check.name, check.ok, check.found, None if check.ok else _FIXES.get(check.name))
    for target in TARGETS:
        yield Finding(f"target {target.name}", None, _state(target.name, target.module))
    yield Finding("fusions", None, _stood_down(hooks.status()))
    yield _variable(vllm.envs, vllm.platforms)


_FIXES = {
    "platform": "install vllm-ascend beside vLLM; if VLLM_PLUGINS is set, name ascend in it",
    "triton": "pip uninstall -y triton triton-ascend && pip install triton-ascend",
    "driver": "see that an NPU is visible (npu-smi info, ASCEND_RT_VISIBLE_DEVICES), and that one Triton is installed",
}


def _state(name: str, module: str) -> str:
    """What became of a target once its module is imported, as a process of vLLM's imports it."""
    import importlib

    from rope_patch.patching import hooks

    try:
        importlib.import_module(module)
    except Exception as error:
        return f"not here: {type(error).__name__}: {error}"
    return hooks.status()["targets"][name]


def _applied() -> list[str]:
    hooks: Any = sys.modules.get("rope_patch.patching.hooks")
    if hooks is None:
        return []
    return [name for name, state in hooks.status()["targets"].items() if state == "applied"]


def _stood_down(status: Any) -> str:
    if status["targets"]["ascend_rotary_class"] == "applied":
        return "NeoX with head_size and rotary_dim 128 stays native, for vllm-ascend's qknorm_rope_fusion_pass"
    if status["targets"]["ascend_rope_kernel"] == "applied":
        return "none needed: what is replaced lies below the op that vllm-ascend's fusion passes match"
    return "none"


def _variable(envs: Any, platforms: Any) -> Finding:
    """Whether this vLLM minds variables that it does not know, and whether it knows those of ours that are set."""
    name = "vLLM's variables"
    unknown = [variable for variable in environment.variables() if variable not in envs.environment_variables]
    # The class is asked: a platform answers None for attributes that it does not have.
    if not hasattr(type(platforms.current_platform), "validate_environ"):
        return Finding(name, None, "this vLLM does not look for variables that it does not know")
    if unknown:
        found = f"this vLLM warns of {', '.join(unknown)}, and refuses to start under --fail-on-environ-validation"
        return Finding(name, None, found)
    return Finding(name, True, "this vLLM warns of variables that it does not know, and knows ours")


def _device() -> Finding:
    try:
        return _looked_at()
    except Exception as error:  # there is no torch, or its device does not start
        return Finding("device", False, f"{type(error).__name__}: {error}")


def _looked_at() -> Finding:
    import torch

    device = next(
        (kind for kind in ("npu", "cuda") if hasattr(torch, kind) and getattr(torch, kind).is_available()), ""
    )
    if not device:
        return Finding("device", None, "neither an NPU nor CUDA here")
    from rope_patch.kernels.launch import device_facts

    facts = device_facts(torch.device(device, 0))
    name = getattr(torch, device).get_device_name(0)
    kib = facts.tile_bytes // 1024
    cores = f"{facts.max_programs} programs at once, {kib} KiB each for tiles (on an NPU: vector cores, unified buffer)"
    return Finding("device", True, f"{name}: {cores}")


def _initialised() -> bool:
    torch: Any = sys.modules.get("torch")
    kinds = [getattr(torch, kind, None) for kind in ("npu", "cuda")]
    return any(kind is not None and kind.is_initialized() for kind in kinds)
