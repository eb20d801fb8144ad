"""vllm-ascend's own Triton RoPE kernel, taken from a release rather than imitated."""

import importlib.metadata
import importlib.util
import os
import sys
import types
import zipfile
from pathlib import Path

WHEEL = "HOST_CANN_VLLM_ASCEND_WHEEL"  # a vllm-ascend wheel to read where the package is not installed
MEMBER = "vllm_ascend/ops/triton/rope.py"


def source() -> tuple[str, str] | None:
    """(version, text) of the release's ``ops/triton/rope.py``; None where there is none to read."""
    if wheel := os.environ.get(WHEEL):
        with zipfile.ZipFile(wheel) as archive:
            return Path(wheel).name.split("-")[1], archive.read(MEMBER).decode()
    try:
        distribution = importlib.metadata.distribution("vllm-ascend")
    except importlib.metadata.PackageNotFoundError:
        return None
    path = distribution.locate_file(MEMBER)
    return distribution.version, Path(str(path)).read_text()


def _of_tensors(tl: types.ModuleType) -> dict[str, object]:
    return {name: getattr(tl, name) for name in ("extract_slice", "insert_slice", "get_element")}


def kernel_module(text: str, folder: Path) -> types.ModuleType:
    """The file as a module without vLLM, whose modules are replaced here. Triton needs the file on disk."""
    import triton
    import triton.language as tl

    answers = {
        "vllm": {},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.utils": {},
        "vllm.utils.torch_utils": {"direct_register_custom_op": lambda **_: None},
        "vllm_ascend": {},
        "vllm_ascend.ops": {},
        "vllm_ascend.ops.triton": {},
        "vllm_ascend.ops.triton.triton_utils": {"get_vectorcore_num": lambda: 40, **_of_tensors(tl)},
        "upstream": {"__path__": []},
        "upstream.base": {"RotaryEmbeddingBase": object},
        "upstream.yarn_scaling_rope": {"YaRNScalingRotaryEmbedding": object, "yarn_get_mscale": None},
    }
    before = {name: sys.modules.get(name) for name in answers}
    for name, attributes in answers.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)
    try:
        path = folder / "upstream_rope.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("upstream.rope", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        for name, module_before in before.items():
            sys.modules.pop(name)
            if module_before is not None:
                sys.modules[name] = module_before


def arguments(heads: int, rotary_dim: int, is_neox_style: bool, block: int) -> tuple[dict[str, str], dict[str, object]]:
    """Signature and constexprs of ``_triton_rope`` for bf16 and full rotary, as 0.23.0 calls it."""
    pointers = {"q_ptr": "*bf16", "k_ptr": "*bf16", "cos_sin_ptr": "*bf16", "pos_ptr": "*i64"}
    integers = dict.fromkeys(("q_row_stride", "k_row_stride", "cos_sin_row_stride", "num_tokens"), "i32")
    absent = dict.fromkeys(("cos_ptr", "cos_row_stride", "sin_ptr", "sin_row_stride"))
    chosen = {
        "n_qh": heads,
        "n_kh": heads,
        "hd": rotary_dim,
        "rope_dim": rotary_dim,
        "pad_rope_dim": 1 << (rotary_dim - 1).bit_length(),
        "BLOCK_SIZE_HEAD": block,
        "IS_NEOX_STYLE": is_neox_style,
        "USE_COS_SIN": True,
    }
    return pointers | integers, absent | chosen
