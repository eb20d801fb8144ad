"""Importing ``rope_patch`` makes vLLM's rotary embedding on Ascend NPUs run one fused Triton kernel.

Import it before vLLM starts (after works too). It leaves everything as it was where the kernel cannot run, and when
``VLLM_ASCEND_TRITON_ROPE=0`` was set at import. See the README.

Everything else is imported only when it is needed, so a process that never uses vLLM does not pay for it.
"""

from rope_patch.environment import VERSION as __version__
from rope_patch.patching import import_watch

TYPE_CHECKING = False  # not typing's, since importing typing would take longer than everything else here
if TYPE_CHECKING:
    from rope_patch.reporting.form import Status

__all__ = ["__version__", "disable", "enable", "status"]


def disable() -> None:
    """Hand every call to the original, put back every attribute that was replaced, and re-bind live instances.

    Where others have wrapped an attribute since, their wrapper stays, and its calls go to the original all the same.
    What was already traced or captured stays as it is. Harmless when nothing is applied.
    """
    from rope_patch.patching import hooks
    from rope_patch.reporting import process

    process.switched += 1
    hooks.patch.disable()


def enable() -> None:
    """Apply again what ``disable`` took back, or what others have removed since. A target whose module is not imported
    yet is applied on its import.

    The environment variable wins: under ``VLLM_ASCEND_TRITON_ROPE=0`` this does nothing and logs that.

    Raises:
        rope_patch.capability.NotCapable: only under ``force``, if this process cannot run the kernel.
    """
    from rope_patch.patching import hooks
    from rope_patch.reporting import process

    process.switched += 1
    import_watch.the_finder().catch_up()
    hooks.patch.enable()


def status() -> "Status":
    """What rope_patch is doing in this process, as plain data that ``json.dumps`` takes."""
    from rope_patch.patching import hooks

    return hooks.patch.status()


def _start() -> None:
    """Runs when vLLM is imported: start the report and the patching.

    Never raises: a failure is logged and leaves vLLM as it is.
    """
    try:
        # dataclasses looks into sys.modules for typing, which another thread may have imported only half. Import it
        # completely first.
        import typing  # noqa: F401

        from rope_patch import settings

        current = settings.current()
        for complaint in current.complaints:
            _log(complaint)
        if current.report:
            from rope_patch.reporting import keeper

            import_watch.the_finder().leaving.append(keeper.keep(current.report, status))
        from rope_patch.patching import hooks

        hooks.patch.arm(current)
    except Exception as error:
        _log(f"not active: {type(error).__name__}: {error}. vLLM runs unpatched.")


def _log(message: str) -> None:
    import logging

    logging.getLogger("vllm.rope_patch").warning("rope_patch: %s", message)


import_watch.watch(_start)
