"""Importing ``rope_patch`` makes vLLM's rotary embedding on Ascend NPUs run one fused Triton kernel.

Import it before vLLM starts (after works too). It leaves everything as it was where the kernel cannot run, and when
``VLLM_ASCEND_TRITON_ROPE=0`` was set at import. See the README.
"""

import os

from rope_patch import trigger

TYPE_CHECKING = False  # not typing's: importing that would take longer than all the rest
if TYPE_CHECKING:
    from rope_patch.report import Status

__version__ = "0.1.0"
__all__ = ["disable", "enable", "status"]


def disable() -> None:
    """Put back every attribute that was replaced, and re-bind live instances.

    What was already traced or captured stays as it is. Harmless when nothing is applied.
    """
    from rope_patch import hooks

    hooks.disable()


def enable() -> None:
    """Apply again what ``disable`` took away; targets not yet imported are applied when they are.

    The environment variable wins: under ``VLLM_ASCEND_TRITON_ROPE=0`` this does nothing, and logs that.

    Raises:
        rope_patch.capability.NotCapable: under ``force`` only, as when the target is first imported.
    """
    from rope_patch import hooks

    hooks.enable()


def status() -> "Status":
    """What rope_patch is doing in this process, as plain data that ``json.dumps`` takes."""
    from rope_patch import hooks

    return hooks.status()


# The settings are fixed here; they are parsed when vLLM appears.
trigger.watch({name: value for name, value in os.environ.items() if name.startswith("VLLM_ASCEND_TRITON_ROPE")})
