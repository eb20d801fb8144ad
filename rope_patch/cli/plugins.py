"""What ``VLLM_PLUGINS`` keeps of this environment's plugins, and the value that keeps all, for ``doctor``."""

import importlib.metadata
import os

# What vLLM loads if the variable is unset. Endpoint plugins are not among them: it loads those only if they are named.
GROUPS = ("vllm.platform_plugins", "vllm.general_plugins", "vllm.io_processor_plugins", "vllm.stat_logger_plugins")


def allowed() -> list[str] | None:
    """The names in ``VLLM_PLUGINS``, read as vLLM reads it; None if it is unset and nothing is kept out."""
    value = os.environ.get("VLLM_PLUGINS")
    return None if value is None else value.split(",")


def keeps_all() -> str:
    """The setting under which vLLM loads what is named now, and whatever it loads without it."""
    return f"VLLM_PLUGINS={','.join(dict.fromkeys([*filter(None, allowed() or ()), *_here()]))}"


def state() -> str:
    """What the variable does, in words."""
    named = allowed()
    if named is None:
        return f"unset, so vLLM loads all plugins; whoever sets it keeps them by {keeps_all()}"
    out = [name for name in _here() if name not in named]
    if not out:
        return f"{','.join(named)}: keeps out none"
    return f"{','.join(named)}: keeps out {', '.join(out)}; {keeps_all()} keeps all of them"


def _here() -> list[str]:
    points = [point.name for group in GROUPS for point in importlib.metadata.entry_points(group=group)]
    return sorted(dict.fromkeys(points))
