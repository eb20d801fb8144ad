"""Find out whether this environment would run the kernel, and if not, why not and what helps.

Imports vLLM as a process of vLLM would, and reports which targets were applied. No device is initialised, unless
--device asks for it. Exit status 0: the rotary embedding would be patched, or is switched off as set; 1: it stays
native, or something is wrong.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from rope_patch.cli import findings, pins
from rope_patch.cli.answer import Answer, table
from rope_patch.cli.findings import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", action="store_true", help="initialise the device too, and show what it is")


def act(options: argparse.Namespace) -> Answer:
    """All findings, and a verdict."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with contextlib.redirect_stdout(sys.stderr):  # vLLM and its plugins print there when imported
        found = [*findings.of_environment(), *pins.findings(), *_of_vllm()]
        found += [_device() if options.device else Finding("device", None, "not looked at (--device does)")]
    faults = [finding for finding in found if finding.ok is False]
    applied = _applied()
    off = findings.off_as_set()
    verdict = f"would be patched: {', '.join(applied)}" if applied else "vLLM's rotary embedding stays native"
    verdict = f"off, as set: {off}" if off else verdict
    if faults:
        verdict += f"; {len(faults)} to fix: {', '.join(finding.name for finding in faults)}"
    data = {
        "able": bool(applied) and not faults,
        "verdict": verdict,
        "findings": [finding._asdict() for finding in found],
        "device_initialised": _initialised(),
    }
    return Answer(ok=bool(applied or off) and not faults, data=data, text=f"{_text(found)}\n\n{verdict}")


def _text(found: list[Finding]) -> str:
    marks = {True: "ok", False: "FAULT", None: ""}
    lines = []
    rows = [(marks[finding.ok], finding.name, finding.found) for finding in found]
    for line, finding in zip(table(("", "", ""), rows).split("\n")[1:], found, strict=True):
        lines.append(line)
        if finding.fix:
            lines.append(f"       -> {finding.fix}")
    return "\n".join(lines)


def _of_vllm() -> Iterator[Finding]:
    """What needs vLLM: its platform, which targets were applied, and whether it knows our variables."""
    from rope_patch import capability
    from rope_patch.patching import hooks
    from rope_patch.patching.targets import TARGETS

    try:
        import vllm.envs
        import vllm.platforms
    except Exception as error:
        yield Finding("vllm", False, f"{type(error).__name__}: {error}", "pip install vllm vllm-ascend")
        return
    states = {f"target {target.name}": _state(target.name, target.module) for target in TARGETS}
    for check in capability.examine().checks:  # after those imports, as in a process of vLLM
        fix = _FIXES.get(check.name, "").format(triton_ascend=pins.pins().get("triton-ascend", "VERSION"))
        yield Finding(check.name, check.ok, check.found, None if check.ok else fix or None)
    for name, state in states.items():
        yield Finding(name, None, state)
    yield Finding("fusions", None, _left_native(hooks.patch.status()))
    yield _variable(vllm.envs, vllm.platforms)


_FIXES = {
    "platform": "install vllm-ascend beside vLLM; if VLLM_PLUGINS is set, name ascend in it",
    "release": "pip install 'vllm-ascend>=0.11.0'",
    "triton": "pip uninstall -y triton triton-ascend && pip install triton-ascend=={triton_ascend}",
    "driver": "see that an NPU is visible (npu-smi info, ASCEND_RT_VISIBLE_DEVICES), and that one Triton is installed",
}


def _state(name: str, module: str) -> str:
    """The state of a target after its module was imported, as a process of vLLM imports it."""
    import importlib

    from rope_patch.patching import hooks, outcomes

    try:
        importlib.import_module(module)
    except Exception as error:
        state = hooks.patch.status()["targets"][name]
        return state if state == outcomes.ABSENT else f"not here: {type(error).__name__}: {error}"
    return hooks.patch.status()["targets"][name]


def _applied() -> list[str]:
    hooks: Any = sys.modules.get("rope_patch.patching.hooks")
    if hooks is None:
        return []
    return [name for name, state in hooks.patch.status()["targets"].items() if state.startswith("applied")]


def _left_native(status: Any) -> str:
    """What stays native for vllm-ascend's fusion passes, and whether what they put into graphs is served."""
    applied = [name for name, state in status["targets"].items() if state.startswith("applied")]
    fused = [name for name in ("qkv_rmsnorm_rope", "qkv_rmsnorm_mrope") if name in applied]
    said = f"; the kernels of operators that norm and rotate are replaced: {', '.join(fused)}" if fused else ""
    if "ascend_rotary_class" in applied:
        return "NeoX with head_size and rotary_dim 128 stays native, for vllm-ascend's qknorm_rope_fusion_pass" + said
    if "ascend_rope_kernel" in applied:
        return "none needed: what is replaced lies below the op that vllm-ascend's fusion passes match" + said
    return "none" + said


def _variable(envs: Any, platforms: Any) -> Finding:
    """Whether this vLLM looks for variables that it does not know, and what it does about ours that are set."""
    name = "vLLM's variables"
    # In vllm.envs from 0.17 on; from 0.31 on of the platform. The class is looked at, since a platform object gives
    # None for attributes that it does not have.
    if not any(hasattr(place, "validate_environ") for place in (envs, type(platforms.current_platform))):
        return Finding(name, None, "this vLLM does not look for variables that it does not know")
    checks = "this vLLM warns of variables that it does not know, and refuses them under --fail-on-environ-validation"
    unknown = [variable for variable in findings.variables() if variable not in envs.environment_variables]
    if findings.variables() and not findings.ways_in().ok:
        unknown = list(findings.variables())  # in vLLM's own processes, which do not import rope_patch
    if unknown:
        return Finding(name, False, f"{checks}: {', '.join(unknown)}", f"unset {' '.join(unknown)}")
    return Finding(name, True, f"{checks}; it knows ours, switched on or off")


def _device() -> Finding:
    try:
        return _described()
    except Exception as error:  # torch is missing, or its device cannot be initialised
        return Finding("device", False, f"{type(error).__name__}: {error}")


def _described() -> Finding:
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
