"""vllm-ascend's engine with the patch and without, side by side: ``python -m tests.ascend_stack.engine GLM-4 Phi-3``.

Any Python will do: it starts that of ``.venvs/stack-RELEASE``, which ``scripts/test.sh`` and ``scripts/quickstart.sh``
make. No NPU is needed; the README here says what stands in for one. ``all`` means all models that the release has.
Prints the tokens of each model, then one Markdown table of all.

Exit status 1 if rope_patch's tokens are not those of vLLM's own rotary code, if the kill switch's are not those of an
unpatched process, or if the kernel served no call.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.ascend_stack import tiny
from tests.ascend_stack.tested import NEWEST, having

ROOT = Path(__file__).parents[2]
RELEASES = having("engine")
# Older releases have no GLM-OCR, or none that takes the tiny model's weights.
LEFT_OUT = {release: {"GLM-OCR"} for release in RELEASES if release not in having("images")}


def models_of(release: str) -> list[str]:
    """All models that the engine of this release is tried with."""
    return [name for name in tiny.NAMES if name not in LEFT_OUT.get(release, ())]


SHOWN = {
    "vllm": "vLLM's own PyTorch code",
    "patched": "rope_patch",
    "unpatched": "vllm-ascend by itself",
    "off": "VLLM_ASCEND_TRITON_ROPE=0",
    "wrongly": "rope_patch, positions halved",
}
HEAD = (
    "| model | rotary | with rope_patch | vllm-ascend by itself | `VLLM_ASCEND_TRITON_ROPE=0` | positions halved |",
    "|---|---|---|---|---|---|",
)

Ways = dict[str, dict[str, Any]]  # of one model, as ``generate`` prints them


def generated(release: str, models: list[str], dtype: str) -> dict[str, Ways]:
    """What ``generate`` prints when that release's Python runs it; its progress is shown."""
    python = ROOT / ".venvs" / f"stack-{release}" / "bin" / "python"
    if not python.exists():
        make = f"bash -c '. scripts/environments.sh; stack_environment {release}'"
        sys.exit(f"no {python.relative_to(ROOT)}: make it with\n  {make}")
    command = [str(python), "-m", "tests.host_cann.run", "python", "-m", "tests.ascend_stack.generate"]
    process = subprocess.Popen(
        [*command, *models, "--dtype", dtype], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said: list[str] = []
    for line in process.stdout or ():
        said.append(line)
        if "of processor time" in line:
            print("  …", line.strip(), file=sys.stderr, flush=True)
    if process.wait():
        sys.exit("".join(said[-40:]))
    return json.loads(said[-1])  # type: ignore[no-any-return]


def served(worker: dict[str, Any]) -> str:
    """Who rotated, according to the worker's own report."""
    if not worker["imported"]:
        return "rope_patch not imported"
    if worker["mode"] == "off":
        return "nothing patched"
    handed_back = sum(worker["fallbacks"].values())
    return f"{sum(worker['calls'].values())} calls by the kernel, {handed_back} handed back"


def detail(model: str, ways: Ways) -> Iterator[str]:
    """What was patched; then for each way the first prompt's tokens, the verdict on all prompts', and who rotated."""
    patched, right = ways["patched"], ways["vllm"]["tokens"]
    yield f"\n{model}, rotary {tiny.ROTARY[model]}; {len(right)} prompts, of which the first's tokens are printed"
    applied = [name for name, outcome in patched["worker"]["targets"].items() if outcome == "applied"]
    yield f"  patched: {', '.join(applied) or 'nothing'}"
    for way, title in SHOWN.items():
        if raised := ways[way].get("raised"):
            yield f"  {title:30} ends: {raised[:200]}"
            continue
        tokens = ways[way]["tokens"]
        verdict = "right" if tokens == right else "OTHER TOKENS"
        yield f"  {title:30} {' '.join(map(str, tokens[0])):26} {verdict:13} {served(ways[way]['worker'])}"
    if ways["unpatched"].get("tokens", right) != right:
        yield "  vllm-ascend by itself is WRONG for this model: its tokens are not those of vLLM's own code"


def row(model: str, ways: Ways) -> str:
    """The model's line of the table below ``HEAD``. Right are the tokens of vLLM's own PyTorch rotary code."""

    def verdict(way: str, right: str, wrong: str, expected: str = "vllm") -> str:
        if "raised" in ways[way]:
            return "ends with an error"
        return right if ways[way]["tokens"] == ways[expected].get("tokens") else wrong

    worker = ways["patched"]["worker"]
    calls = sum(worker["calls"].values())
    cells = [
        model,
        tiny.ROTARY[model],
        f"{verdict('patched', 'right', '**wrong**')}, {calls} of {calls + sum(worker['fallbacks'].values())} calls",
        verdict("unpatched", "right", "**wrong**"),
        verdict("off", "as by itself", "**differs**", "unpatched"),
        verdict("wrongly", "**no effect**", "other tokens"),
    ]
    return f"| {' | '.join(cells)} |"


def as_promised(results: dict[str, Ways]) -> bool:
    """Whether the exit status is 0, as the module's docstring says."""
    right = all(ways["patched"]["tokens"] == ways["vllm"]["tokens"] for ways in results.values())
    unchanged = all(ways["off"].get("tokens") == ways["unpatched"].get("tokens") for ways in results.values())
    return right and unchanged and any(ways["patched"]["worker"]["calls"] for ways in results.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"of {', '.join(tiny.NAMES)}, or all; default GLM-4 Phi-3"
    parser.add_argument("models", nargs="*", metavar="MODEL", help=names)
    parser.add_argument("--release", choices=RELEASES, default=NEWEST, help="of vllm-ascend; default %(default)s")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    models = options.models or ["GLM-4", "Phi-3"]
    if models == ["all"]:
        models = models_of(options.release)
    if unknown := set(models) - set(tiny.NAMES):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(tiny.NAMES)}")
    print(f"vllm-ascend {options.release}, {options.dtype}; takes a few minutes", file=sys.stderr)
    results = generated(options.release, models, options.dtype)
    for model, ways in results.items():
        print("\n".join(detail(model, ways)))
    print("", *HEAD, *(row(model, ways) for model, ways in results.items()), sep="\n")
    if not as_promised(results):
        sys.exit(1)


if __name__ == "__main__":
    main()
