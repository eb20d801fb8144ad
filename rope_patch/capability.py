"""Whether this process could run the kernel: a verdict with a reason for each check.

The checks look at installed packages and at the platform that vLLM has chosen. They never initialise a device.
"""

import importlib
import inspect
import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One condition that must hold, and what was found."""

    name: str
    ok: bool
    found: str
    raised: bool = False  # whether it could not be looked at, perhaps only now


@dataclass(frozen=True)
class Verdict:
    """The checks in order. They stop at the first one that fails."""

    checks: tuple[Check, ...]

    @property
    def capable(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def certain(self) -> bool:
        """Whether no check raised an error, so that asking again would say the same."""
        return not any(check.raised for check in self.checks)

    @property
    def reason(self) -> str:
        """What the first failed check found; if none failed, what all of them found."""
        for check in self.checks:
            if not check.ok:
                return f"{check.name}: {check.found}"
        return ", ".join(check.found for check in self.checks if check.found)


class NotCapable(RuntimeError):
    """Names the missing capability. Raised only under ``VLLM_ASCEND_TRITON_ROPE=force``."""


def examine() -> Verdict:
    """Run the checks in this process. vLLM must have been imported, since that decides its platform."""
    checks = []
    for examination in (_platform, _release, _chip, _triton, _driver):
        try:
            check = examination()
        except Exception as error:  # a check that raises counts as failed
            check = Check(examination.__name__.strip("_"), False, f"{type(error).__name__}: {error}", raised=True)
        checks.append(check)
        if not check.ok:
            break
    return Verdict(tuple(checks))


def interpreting() -> bool:
    """Whether Triton's CPU interpreter is switched on, as in tests and in ``verify`` on a machine without an NPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _platform_device() -> str:
    return sys.modules["vllm.platforms"].current_platform.device_type


def _platform() -> Check:
    device = _platform_device()
    if device == "npu":
        return Check("platform", True, "vLLM's platform is npu")
    if device == "cpu" and interpreting():
        return Check("platform", True, "vLLM's platform is cpu, under TRITON_INTERPRET=1")
    return Check("platform", False, f"vLLM's platform is {device or 'unspecified'}, not npu")


BASE = "vllm.model_executor.layers.rotary_embedding.base"
OLDER = "vLLM's RotaryEmbedding takes offsets, as before 0.11: releases that rope_patch was never run with"


def too_old(base: object) -> str:
    """``OLDER`` if vLLM's module of ``RotaryEmbedding`` is one of those; else empty.

    Some targets find in them what they expect (0.10.1, 0.10.2), and half of the classes would be patched.
    """
    native = getattr(getattr(base, "RotaryEmbedding", None), "forward_native", None)
    return OLDER if native and "offsets" in inspect.signature(native).parameters else ""


def _release() -> Check:
    """Before that module is imported, nothing is known of it. It is imported before those of other targets."""
    why = too_old(sys.modules.get(BASE))
    return Check("release", not why, why)


# Chips that vllm-ascend supports and the kernel does not, by what its build information calls them.
REFUSED = {
    "310p": "Atlas 310P, which triton-ascend does not support",
    "950": "Ascend 950 (A5), which has another instruction set and unified buffer than the kernel's plans are made for",
}


def _chip() -> Check:
    """vllm-ascend records the chip it was built for; no device is asked."""
    try:
        built = importlib.import_module("vllm_ascend._build_info")
    except ImportError:  # another platform, or a vllm-ascend that records it elsewhere; the driver check follows
        return Check("chip", True, "")
    built_for = " ".join(str(getattr(built, name, "")) for name in ("__device_type__", "__soc_version__")).lower()
    named = built_for.replace("a5", "950")
    refused = [why for name, why in REFUSED.items() if name in named]
    return Check("chip", not refused, "".join(refused))


def _triton() -> Check:
    import triton
    from triton.backends import backends

    version = getattr(triton, "__version__", "without a version")
    if _platform_device() == "cpu":
        return Check("triton", True, f"triton {version}, interpreted")
    if "ascend" not in backends:
        return Check(
            "triton",
            False,
            f"triton {version} has no ascend backend ({', '.join(sorted(backends)) or 'none'} found); mainline triton "
            "overwrites triton-ascend's files: pip uninstall -y triton triton-ascend && "
            "pip install triton-ascend==VERSION, where rope-patch doctor says which version vllm-ascend asks for",
        )
    return Check("triton", True, f"triton-ascend {version}")


def _driver() -> Check:
    if _platform_device() == "cpu":
        return Check("driver", True, "no driver needed")
    from vllm.triton_utils import HAS_TRITON  # vLLM sets it where it found exactly one active driver

    return Check("driver", bool(HAS_TRITON), f"vLLM's HAS_TRITON is {HAS_TRITON}")
