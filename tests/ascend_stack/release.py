"""Which vllm-ascend is installed, for what tests record of releases. Importing this imports neither it nor vLLM."""

import importlib.metadata
import importlib.util

from packaging.version import Version

VERSION = importlib.metadata.version("vllm-ascend") if importlib.util.find_spec("vllm_ascend") else ""


def since(first: str) -> bool:
    """Whether the installed release is ``first`` or newer. For records of upstream's; what is used is looked for."""
    return bool(VERSION) and Version(VERSION) >= Version(first)
