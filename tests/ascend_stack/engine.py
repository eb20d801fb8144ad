"""vllm-ascend's engine with the patch and without, side by side: ``python -m tests.ascend_stack.engine GLM-4 Phi-3``.

Any Python will do: it starts that of ``.venvs/stack-RELEASE``, which ``scripts/test.sh`` makes. No NPU is needed; the
README here says what stands in for one. Exit status 1 if rope_patch's tokens are not those of vLLM's own rotary code.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.ascend_stack import tiny

ROOT = Path(__file__).parents[2]
RELEASES = ("0.23.0", "0.18.0", "0.13.0")
SHOWN = {
    "vllm": "vLLM's own PyTorch code",
    "patched": "with rope_patch",
    "unpatched": "vllm-ascend by itself",
    "off": "VLLM_ASCEND_TRITON_ROPE=0",
    "wrongly": "with rope_patch, positions halved",
}


def generated(release: str, models: list[str], dtype: str) -> Any:
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
    return json.loads(said[-1])


def served(worker: dict[str, Any]) -> str:
    """Who rotated, according to the worker's own report."""
    if not worker["imported"]:
        return "rope_patch not imported"
    handed_back = sum(worker["fallbacks"].values())
    return f"{sum(worker['calls'].values())} calls by the kernel, {handed_back} handed back"


def show(release: str, results: dict[str, Any]) -> bool:
    """Print it; returns whether rope_patch's tokens are vLLM's."""
    right = True
    for model, ways in results.items():
        print(f"\n{model} (rotary: {tiny.ROTARY[model]}), vllm-ascend {release}")
        expected = ways["vllm"]["tokens"]
        for way, title in SHOWN.items():
            if raised := ways[way].get("raised"):
                print(f"  {title:34} ends: {raised[:200]}")
                continue
            tokens = ways[way]["tokens"]
            verdict = "the same" if tokens == expected else "OTHER TOKENS"
            first = " ".join(map(str, tokens[0]))
            print(f"  {title:34} {first:26} {verdict:13} {served(ways[way]['worker'])}")
        right &= ways["patched"]["tokens"] == expected
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(tiny.MODELS)}; default GLM-4 Phi-3")
    parser.add_argument("--release", choices=RELEASES, default=RELEASES[0], help="of vllm-ascend; default %(default)s")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    models = options.models or ["GLM-4", "Phi-3"]
    if unknown := set(models) - set(tiny.MODELS):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(tiny.MODELS)}")
    print(f"the engine of vllm-ascend {options.release}; the first time takes some minutes", file=sys.stderr)
    if not show(options.release, generated(options.release, models, options.dtype)):
        sys.exit(1)


if __name__ == "__main__":
    main()
