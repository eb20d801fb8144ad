"""Rotary shapes of published models, as one tensor-parallel rank sees them."""

from typing import NamedTuple


class ModelShape(NamedTuple):
    """The heads of a model that has this shape."""

    model: str
    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int
    is_neox_style: bool = True
    order: tuple[str, int, int] | None = None  # of three positions a token: its name, pairs of lanes of h and of w

    @property
    def axes(self) -> str:
        """Which of three positions each pair of lanes turns by (``kernels/orders.py``); "" for one position."""
        if self.order is None:
            return ""
        from rope_patch.kernels.orders import lanes

        return lanes(self.order[0], self.rotary_dim // 2, *self.order[1:])


SHAPES = (
    ModelShape("GLM-4-9B", 128, 64, 32, 2, False),
    ModelShape("GLM-4.5 tp8", 128, 64, 12, 1),
    ModelShape("GLM-5.2 draft", 192, 192, 64, 64),
    ModelShape("Qwen3-32B", 128, 128, 64, 8),
    ModelShape("Qwen2.5-7B", 128, 128, 28, 4),
    ModelShape("Qwen3-Next", 256, 64, 16, 2),
    ModelShape("Llama-3.1-8B", 128, 128, 32, 8),
    ModelShape("Llama-3.2-1B", 64, 64, 32, 8),
    ModelShape("gpt-oss", 64, 64, 64, 8),
    ModelShape("Phi-3-mini", 96, 96, 32, 32),
    ModelShape("Phi-4-mini", 128, 96, 24, 8),
    ModelShape("Phi-2", 80, 32, 32, 32),
    ModelShape("Gemma-2", 256, 256, 16, 8),
    ModelShape("Gemma-4", 512, 512, 16, 8),
    ModelShape("ERNIE-4.5", 128, 128, 20, 4, False),
    ModelShape("DeepSeek MLA", 64, 64, 128, 1, False),
    ModelShape("StableLM-3B", 80, 20, 32, 32),
    ModelShape("StableLM-2-12B", 160, 40, 32, 8),
    ModelShape("GPT-J", 256, 64, 16, 16, False),
    ModelShape("GPT-NeoX-20B", 96, 24, 64, 64),
    ModelShape("Nemotron-340B", 192, 96, 96, 8),
    ModelShape("StarCoder2", 128, 128, 48, 4),
    ModelShape("MiMo-V2", 192, 64, 64, 4),
)

# Heads that only the compilers are tested with (scripts/census).
# GLM-4.5, GLM-OCR and PaddleOCR-VL are transformers' default configurations; the others' head counts were not looked
# up.
MORE_SHAPES = (
    ModelShape("GLM-4.5", 128, 64, 96, 8),
    ModelShape("MiniMax", 128, 64, 64, 8),
    ModelShape("ERNIE-4.5-300B", 128, 128, 64, 8, False),
    ModelShape("Qwen2-VL-2B", 128, 128, 12, 2),
    ModelShape("Qwen3-VL-4B tp2", 128, 128, 16, 4),
    ModelShape("Qwen3.5-27B", 256, 64, 24, 4),
    ModelShape("GLM-OCR", 128, 128, 16, 8, False),
    ModelShape("PaddleOCR-VL", 128, 128, 16, 2),
)

# Three positions a token: every order, NeoX and GPT-J, full and partial.
THREE_POSITIONS = (
    ModelShape("GLM-4.1V-9B", 128, 64, 32, 2, False, ("chunked", 12, 12)),
    ModelShape("GLM-4.5V tp8", 128, 64, 12, 1, True, ("chunked", 12, 12)),
    ModelShape("Qwen2.5-VL-7B", 128, 128, 28, 4, True, ("chunked", 24, 24)),
    ModelShape("Qwen3-VL-8B", 128, 128, 32, 8, True, ("interleaved", 20, 20)),
    ModelShape("Qwen3.5", 256, 64, 16, 2, True, ("interleaved", 11, 10)),
    ModelShape("ERNIE-4.5-VL", 128, 128, 20, 4, False, ("alternating", 22, 22)),
)
