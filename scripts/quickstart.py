"""Generate with the real vLLM, natively and with rope_patch, and show both side by side."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
GENERATE = ROOT / "tests" / "engine" / "generate.py"


def generate(model: str, setting: str, folder: Path) -> dict[str, Any]:
    """Run the engine in new processes under ``VLLM_ASCEND_TRITON_ROPE=setting``."""
    out, log = folder / f"{setting}.json", folder / f"{setting}.log"
    command = [sys.executable, str(GENERATE), "--cases", f"{model}:float32", "--folder", str(folder), "--out", str(out)]
    environment = os.environ | {"VLLM_ASCEND_TRITON_ROPE": setting, "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if sys.stdout.isatty():
                print(f"\r   generating … {time.monotonic() - began:.0f}s ", end="", flush=True)
            time.sleep(0.5)
    print(f"\r   generated in {time.monotonic() - began:.0f}s, engine start included")
    if process.returncode:
        sys.exit(f"vLLM failed; the end of its log:\n{log.read_text()[-4000:]}")
    (result,) = json.loads(out.read_text())
    return result["plain"]


def show(result: dict[str, Any]) -> None:
    """Print what was generated, and what the worker process reports of its rotary embedding."""
    worker, status = result["worker"], result["worker"].get("status", {})
    for tokens in result["tokens"]:
        print("   tokens ", *tokens)
    print(f"   worker   process {worker['pid']}, rotary classes {', '.join(worker['classes'])}")
    applied = [name for name, state in status.get("targets", {}).items() if state == "applied"]
    print(f"   patched  {', '.join(applied) or 'nothing'} ({status.get('reason')})")
    calls = status.get("calls") or "none"
    print(f"   served   by the kernel: {calls}; handed back to the original: {status.get('fallbacks') or 'none'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama3", choices=["llama3", "glm4", "phi3", "qwen3"])
    model = parser.parse_args().model
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting, title in (("0", "native (VLLM_ASCEND_TRITON_ROPE=0)"), ("1", "with rope_patch")):
            print(f"== a tiny random {model} on vLLM, {title}", flush=True)
            results[setting] = generate(model, setting, Path(folder))
            show(results[setting])
    same = results["0"]["tokens"] == results["1"]["tokens"]
    served = bool(results["1"]["worker"].get("status", {}).get("calls"))
    print(f"== tokens equal: {'yes' if same else 'NO'}; served by the kernel: {'yes' if served else 'NO'}")
    return 0 if same and served else 1


if __name__ == "__main__":
    sys.exit(main())
