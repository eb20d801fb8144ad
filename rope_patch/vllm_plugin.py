"""The ``vllm.general_plugins`` entry point. vLLM runs it when it parses arguments, in its engine core and workers."""

import os
import sys

from rope_patch.patching import import_watch


def register() -> None:
    """Loading this module imported ``rope_patch``, and the import switches it on. What is left to do is done here.

    That includes what was missed because another's import hook found vLLM without asking ours.

    Raises:
        rope_patch.capability.NotCapable: under ``force``, if vLLM had imported a target before rope_patch was imported
            and the kernel cannot run. ``import rope_patch`` itself could only log that.
    """
    import_watch.the_finder().catch_up()
    hooks = sys.modules.get("rope_patch.patching.hooks")
    if hooks is None:
        return
    _heed_late_kill_switch()
    if hooks.patch.not_capable is not None:
        raise hooks.patch.not_capable


def _heed_late_kill_switch() -> None:
    """Disable rope_patch if the kill switch was set after rope_patch had been imported.

    A Ray worker gets the driver's variables only after it has started. By then a ``.pth`` or ``sitecustomize`` on its
    node may have imported rope_patch. vLLM sets the variables, then loads plugins, then builds models.
    """
    from rope_patch.patching import hooks
    from rope_patch.reporting import log
    from rope_patch.settings import Mode, current, parse

    now = parse(os.environ)
    if current().mode is not Mode.OFF and now.mode is Mode.OFF:
        log.logger.info("rope_patch: %s, after the import; disabled", now.why_off)
        hooks.patch.disable()
