"""What ``doctor`` says of YaRN's cosines and sines, which vllm-ascend may make otherwise than vLLM.

YaRN scales slow lanes, leaves fast ones, and ramps between two lanes. ``truncate`` says whether the ends of that ramp
are rounded to whole lanes. vllm-ascend 0.15 and newer does not round them unless a model's rope parameters say so;
vLLM and Hugging Face do. rope_patch rotates by whatever cache is there. Only source text is read.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from rope_patch.cli.findings import Finding

PLACES = {
    "vllm": ("model_executor/layers/rotary_embedding/yarn_scaling_rope.py", "YaRNScalingRotaryEmbedding"),
    "vllm_ascend": ("ops/rotary_embedding.py", "AscendYaRNRotaryEmbedding"),
}
MISSING = "no such parameter"


def findings() -> Iterator[Finding]:
    """One finding, if vllm-ascend is installed."""
    if importlib.util.find_spec("vllm_ascend") is None:
        return
    try:
        said = described(*(default(package, *place) for package, place in PLACES.items()))
    except Exception as error:  # another release, which is arranged in another way
        said = f"not found in the installed source: {type(error).__name__}: {error}"
    yield Finding("YaRN's cache", None, said)


def default(package: str, file: str, name: str) -> object:
    """The default of ``truncate`` in a class's ``__init__``, or ``MISSING``."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise LookupError(f"{package} has no {file}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    functions = [node for cls in classes for node in cls.body if isinstance(node, ast.FunctionDef)]
    init = next((node for node in functions if node.name == "__init__"), None)
    if init is None:
        raise LookupError(f"{file} has no {name}.__init__")
    for argument, value in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if argument.arg == "truncate" and value is not None:
            return ast.literal_eval(value)
    return MISSING


def described(vllm: object, ascend: object) -> str:
    """What follows from the two defaults."""
    if vllm == ascend:
        return "made as by vLLM"
    if MISSING in (vllm, ascend):
        return "made as by vLLM, but models whose rope parameters have truncate (gpt-oss) fail, with us and without"
    return (
        f"vllm-ascend makes it with truncate={ascend}, vLLM with truncate={vllm}: models of rope_type yarn whose rope "
        f"parameters do not say truncate rotate otherwise than on a GPU, with us and without; to have it as on a GPU, "
        f"set truncate to {str(vllm).lower()} in their rope parameters"
    )
