"""The ``vllm.general_plugins`` entry point, which vLLM runs in its parser, its engine core and every worker."""

import os
import sys


def register() -> None:
    """Loading this module imported ``rope_patch``, and that is what switches it on.

    Raises:
        rope_patch.capability.NotCapable: what ``force`` demanded in vain of a target that vLLM had imported before us,
            where ``import rope_patch`` itself could only log it.
    """
    hooks = sys.modules.get("rope_patch.patching.hooks")
    if hooks is None:
        return
    _heed_late_kill_switch()
    if hooks.not_capable is not None:
        raise hooks.not_capable


def _heed_late_kill_switch() -> None:
    """A Ray worker gets the driver's variables after it has started, and rope_patch may have been imported before that
    (by a ``.pth`` or ``sitecustomize`` on its node). vLLM sets them first, then loads plugins, then builds models."""
    from rope_patch.patching import hooks
    from rope_patch.reporting import log
    from rope_patch.settings import VARIABLE, Mode, current, parse

    if current().mode is not Mode.OFF and parse(os.environ).mode is Mode.OFF:
        log.logger.info("rope_patch: %s=%s came after the import; disabled", VARIABLE, os.environ[VARIABLE])
        hooks.disable()
