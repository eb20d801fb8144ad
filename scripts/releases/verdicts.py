"""What the patch's own targets, and its check of the release, say of a release's source."""

import re
from email.parser import Parser
from pathlib import Path
from typing import TypedDict

from rope_patch import capability
from rope_patch.patching.targets import TARGETS, NotApplicable
from rope_patch.settings import parse
from scripts.releases.source import Package

PINNED = ("torch", "torch-npu", "triton-ascend", "transformers")
APPLIED = "applied"


class Answer(TypedDict):
    """Of one release: the vLLM that it names, if it is one of vllm-ascend; each target's state; what it pins."""

    vllm: str
    targets: dict[str, str]
    pins: dict[str, str]


def targets(folder: Path, packages: tuple[str, ...] = ("vllm", "vllm_ascend")) -> dict[str, str]:
    """The state of each target whose module belongs to ``packages``: applied, or why not."""
    source = Package(folder)
    too_old = capability.too_old(source.module(capability.BASE))
    found = {}
    for target in TARGETS:
        if target.module.partition(".")[0] not in packages:
            continue
        module = source.module(target.module)
        if module is None:
            found[target.name] = "native: this release has no such module"
            continue
        if too_old:
            found[target.name] = f"native: release: {too_old}"
            continue
        try:
            target.replacement(module, parse({}))
            found[target.name] = APPLIED
        except NotApplicable as error:
            found[target.name] = f"native: {error}"
    return found


def vllm_of(folder: Path, version: str) -> str:
    """The vLLM that a release of vllm-ascend is for: its Dockerfile says so, or else its own number does."""
    dockerfile = folder / "Dockerfile"
    named = re.search(r"^ARG VLLM_TAG=v?(\S+)", dockerfile.read_text(), re.M) if dockerfile.exists() else None
    return named[1] if named else re.split(r"rc|\.post", version)[0]


def pins(folder: Path) -> dict[str, str]:
    """The exact versions that it requires of what we run on."""
    found = [*folder.glob("*.dist-info/METADATA"), *folder.glob("PKG-INFO")]
    required = Parser().parsestr(found[0].read_text()).get_all("Requires-Dist", []) if found else []
    exact = [re.match(r"([\w-]+) ?\(?==([^\s;,)]+)", line) for line in required]
    return {match[1].lower(): match[2] for match in exact if match and match[1].lower() in PINNED}
