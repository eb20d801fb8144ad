"""Multimodal language models whose tokens have three positions (MRoPE): how each rotates, and tensors to rotate.

Importing this needs neither torch nor vLLM: ``hugging_face.py`` runs in another environment.
"""

import importlib
import importlib.util
from typing import Any, NamedTuple

NUM_TOKENS, HEADS, KV_HEADS = 5, 4, 2
# Models have 5e5 and more. With so small a base every pair of lanes turns far within MAX_POSITION.
BASE, MAX_POSITION = 100.0, 128


class Model(NamedTuple):
    vllm: str  # the module of vLLM's that runs it
    hugging_face: str  # its folder and its rotary class in transformers; empty if transformers has neither
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    section: list[int]
    kind: str = "chunked"


MODELS = {
    "GLM-4.1V": Model("glm4_1v", "glm4v Glm4vTextRotaryEmbedding", 128, 64, False, [8, 12, 12]),
    "GLM-4.5V": Model("glm4_1v", "glm4v_moe Glm4vMoeTextRotaryEmbedding", 128, 64, True, [8, 12, 12]),
    "GLM-OCR": Model("glm_ocr", "glm_ocr GlmOcrTextRotaryEmbedding", 128, 128, False, [16, 24, 24]),
    "Qwen2-VL": Model("qwen2_vl", "qwen2_vl Qwen2VLRotaryEmbedding", 128, 128, True, [16, 24, 24]),
    "Qwen2.5-VL": Model("qwen2_5_vl", "qwen2_5_vl Qwen2_5_VLRotaryEmbedding", 128, 128, True, [16, 24, 24]),
    "Qwen3-VL": Model("qwen3_vl", "qwen3_vl Qwen3VLTextRotaryEmbedding", 128, 128, True, [24, 20, 20], "interleaved"),
    "Qwen3.5": Model("qwen3_5", "qwen3_5 Qwen3_5TextRotaryEmbedding", 256, 64, True, [11, 11, 10], "interleaved"),
    "PaddleOCR-VL": Model("paddleocr_vl", "paddleocr_vl PaddleOCRRotaryEmbedding", 128, 128, True, [16, 24, 24]),
    "ERNIE-4.5-VL": Model(
        "ernie45_vl", "ernie4_5_vl_moe Ernie4_5_VLMoeTextRotaryEmbedding", 128, 128, False, [22, 22, 20], "ernie"
    ),
    "openPangu-VL": Model("openpangu_vl", "", 128, 128, True, [24, 20, 20], "openpangu"),
}


def in_vllm(name: str) -> bool:
    """Whether the installed vLLM runs this model."""
    return importlib.util.find_spec(f"vllm.model_executor.models.{MODELS[name].vllm}") is not None


def build(stack: Any, model: Model) -> Any:
    """The rotary embedding on ``npu:0`` as vLLM's model makes it; the platform selects the class."""
    numbers = model.head_size, model.rotary_dim
    if model.kind == "ernie":  # its model makes it without get_rope
        from vllm.config import set_current_vllm_config

        module = importlib.import_module("vllm.model_executor.layers.rotary_embedding.ernie45_vl_rope")
        with set_current_vllm_config(stack.config):
            return module.Ernie4_5_VLRotaryEmbedding(
                *numbers, MAX_POSITION, BASE, model.is_neox_style, stack.torch.bfloat16, mrope_section=model.section
            ).to("npu:0")
    rope_type = "openpangu" if model.kind == "openpangu" else "default"
    parameters = {"mrope_section": model.section, "mrope_interleaved": model.kind in ("interleaved", "openpangu")}
    embedding = stack.build(
        rope_type, *numbers, max_position=MAX_POSITION, is_neox_style=model.is_neox_style, base=BASE, **parameters
    )
    if model.vllm == "paddleocr_vl":  # ERNIE's text model sets one style, and PaddleOCR-VL's the other again
        embedding.is_neox_style = not model.is_neox_style
        embedding.is_neox_style = model.is_neox_style
    return embedding


def inputs(torch: Any, model: Model, request: str) -> tuple[Any, Any, Any]:
    """Positions, query and key in bf16, on the host; the same in every process.

    ``request``: "image": positions of ``[3, T]``, all different; "text": three equal rows; "draft": ``[T]``.
    """
    generator = torch.Generator().manual_seed(0)
    positions = torch.randperm(MAX_POSITION, generator=generator)[: 3 * NUM_TOKENS].view(3, NUM_TOKENS)
    query, key = (
        torch.randn(NUM_TOKENS, number * model.head_size, generator=generator).bfloat16()
        for number in (HEADS, KV_HEADS)
    )
    if request != "image":
        positions = positions[0] if request == "draft" else positions[:1].expand(3, -1).contiguous()
    return positions, query, key
