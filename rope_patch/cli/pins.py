"""What ``doctor`` says of the versions that vllm-ascend asks for, and of those that rope_patch was run with."""

import importlib.metadata
import re
from collections.abc import Iterator

from rope_patch.cli.findings import Finding

PINNED = ("torch-npu", "triton-ascend", "transformers")
RAN_WITH = "triton-ascend 3.2.0 and torch-npu 2.13.0"  # tests/README.md; the registry has no other triton-ascend


def findings() -> Iterator[Finding]:
    """One finding, if vllm-ascend is installed. It is neither right nor wrong: nobody ran the others."""
    try:
        release = importlib.metadata.version("vllm-ascend")
    except importlib.metadata.PackageNotFoundError:
        return
    asked = [f"{name} {version} ({_here(name)})" for name, version in pins().items()]
    said = f"vllm-ascend {release} asks for {', '.join(asked)}" if asked else f"vllm-ascend {release} asks for none"
    yield Finding("versions", None, f"{said}; rope_patch was run with {RAN_WITH} only")


def pins() -> dict[str, str]:
    """The exact versions that vllm-ascend requires, of ``PINNED``; none if it is not installed."""
    try:
        required = importlib.metadata.requires("vllm-ascend") or ()
    except importlib.metadata.PackageNotFoundError:
        return {}
    exact = [re.match(r"([\w.-]+)\s*\(?==\s*([^\s;,)]+)", line) for line in required]
    found = {match[1].lower().replace("_", "-"): match[2] for match in exact if match}
    return {name: found[name] for name in PINNED if name in found}


def _here(name: str) -> str:
    try:
        return f"here {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return "not here"
