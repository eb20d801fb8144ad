"""The ``vllm.general_plugins`` entry point, which vLLM runs in its parser, its engine core and every worker."""

import sys


def register() -> None:
    """Loading this module imported ``rope_patch``, and that is what switches it on.

    Raises:
        rope_patch.capability.NotCapable: what ``force`` demanded in vain of a target that vLLM had imported before us,
            where ``import rope_patch`` itself could only log it.
    """
    hooks = sys.modules.get("rope_patch.hooks")
    if hooks is not None and hooks.refused is not None:
        raise hooks.refused
