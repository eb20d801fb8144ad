"""``python -m scripts.releases``: see the package's docstring."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts.releases import report, verdicts

ROOT = Path(__file__).parents[2]
REGISTRY = Path(__file__).with_name("registry.py")
FIRST_VLLM = (0, 24)  # of vLLM by itself: older ones are examined with the vllm-ascend that is for them

Answers = report.Answers


class NoRegistry(RuntimeError):
    """What pip said."""


def registry(python: Path, *arguments: str) -> Any:
    """What ``registry.py`` prints, run by a Python that has pip."""
    command = [str(python), str(REGISTRY), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoRegistry(f"{' '.join(arguments)}: {done.stderr.strip()[-1000:]}")
    return json.loads(done.stdout or "null")


def examined(python: Path, package: str, version: str) -> verdicts.Answer:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        registry(python, "read", package, version, folder)
        vllm = verdicts.vllm_of(source, version) if package == "vllm-ascend" else ""
        if vllm:
            registry(python, "read", "vllm", vllm, folder + "/of-vllm")
            (source / "of-vllm" / "vllm").rename(source / "vllm")
        packages = ("vllm", "vllm_ascend") if vllm else ("vllm",)
        return {"vllm": vllm, "targets": verdicts.targets(source, packages), "pins": verdicts.pins(source)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.releases", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the answers to results.json")
    parser.add_argument("--new", action="store_true", help="examine only releases that results.json does not have")
    with_pip = ROOT / ".venvs" / "installers" / "bin" / "python"
    parser.add_argument("--pip", type=Path, default=with_pip, metavar="PYTHON", help="one that has pip")
    chosen = parser.parse_args()
    kept = report.kept()
    found: Answers = {"vllm-ascend": {}, "vllm": {}}
    try:
        for package, versions in registry(chosen.pip, "list", *found).items():
            for version in versions:
                too_old = package == "vllm" and tuple(map(int, version.split(".")[:2])) < FIRST_VLLM
                known = kept[package].get(version)
                if too_old or (chosen.new and known):
                    if known and not too_old:
                        found[package][version] = known
                    continue
                found[package][version] = examined(chosen.pip, package, version)
                print(report.line(package, version, found[package][version]), flush=True)
    except (NoRegistry, OSError) as error:
        print(f"nothing can be said without a registry: {error}", file=sys.stderr)
        return 2
    print("", *report.table(found), sep="\n")
    differs = report.differences(kept, found)
    print(*differs, sep="\n")
    if chosen.keep:
        report.keep(found)
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
