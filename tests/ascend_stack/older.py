"""vllm-ascend 0.7.3.post1 and 0.9.1, with rope_patch in one of its ways in: ``python -m tests.ascend_stack.older WAY``.

``WAY`` is "without", "import", "sitecustomize" or "plugin". Prints one JSON object: the functions of vLLM's rotary
classes and of vllm-ascend's module, what two of the classes compute on ``npu:0`` (as digests), and with rope_patch its
status, what it logged, and what ``doctor`` says.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from tests.conftest import ROOT

PLUGINS = "ascend,ascend_enhanced_model"
ROTARY = "vllm.model_executor.layers.rotary_embedding", "vllm_ascend.ops.rotary_embedding"


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def functions() -> Iterator[str]:
    """Each function of both modules and of their classes, and where its code is."""
    for name in ROTARY:
        module = importlib.import_module(name)
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        for holder in (module, *classes):
            for attribute, value in vars(holder).items():
                if code := getattr(value, "__code__", None):
                    yield f"{holder.__name__}.{attribute}: {code.co_filename}:{code.co_firstlineno}"


def computed(torch: Any) -> Iterator[str]:
    """What vLLM's base class and Llama 3's rotate to, full and partial, or the name of the exception."""
    from vllm.config import VllmConfig, set_current_vllm_config

    module = importlib.import_module(ROTARY[0])
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(5, heads * 64, generator=generator).bfloat16() for heads in (4, 2))
    plain, llama3 = (64, 64, 128, 10000.0, True, torch.bfloat16), (8.0, 1.0, 4.0, 64)
    with set_current_vllm_config(VllmConfig()):
        for name, arguments in (
            ("RotaryEmbedding", plain),
            ("RotaryEmbedding", (64, 32, *plain[2:])),
            ("Llama3RotaryEmbedding", (*plain, *llama3)),
        ):
            embedding = getattr(module, name)(*arguments).to("npu:0")
            try:
                rotated = embedding(torch.arange(5).npu(), query.npu(), key.npu())
            except Exception as error:
                yield f"{name}: {type(error).__name__}"
                continue
            content = b"".join(x.float().cpu().numpy().tobytes() for x in rotated)
            yield f"{name}: {hashlib.sha256(content).hexdigest()}"


def main(way: str) -> None:
    if importlib.metadata.version("vllm-ascend").startswith("0.7"):
        sys.modules["triton"] = None  # type: ignore[assignment]  # it cannot be imported beside Triton
    os.environ["VLLM_PLUGINS"] = f"{PLUGINS},rope_patch" if way == "plugin" else PLUGINS
    if way == "sitecustomize":
        sys.modules.pop(way, None)
        sys.path.insert(0, str(ROOT / "rope_patch" / "bootstrap"))
    if way in ("sitecustomize", "import"):
        importlib.import_module("rope_patch" if way == "import" else way)
    from tests.host_cann import fixture

    torch = fixture.initialise()
    plugins = importlib.import_module("vllm.plugins")
    kept = Kept()
    logging.getLogger("vllm.rope_patch").addHandler(kept)  # now, since vLLM takes all earlier ones away
    plugins.load_general_plugins()
    found: dict[str, Any] = {"functions": sorted(functions()), "computed": list(computed(torch))}
    found["ours"] = "rope_patch" in sys.modules
    if found["ours"]:
        import rope_patch
        from rope_patch.cli import main as command

        found |= {"targets": rope_patch.status()["targets"], "logged": kept.lines}
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            found["doctor status"] = command(["doctor", "--json"])
        found["doctor"] = json.loads(said.getvalue())
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
