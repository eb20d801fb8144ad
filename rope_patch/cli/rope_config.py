"""A rotary embedding as one tensor-parallel rank has it, and the built-in list of them."""

from typing import Any, NamedTuple

from rope_patch.cli.sections import Sections

# What get_rope calls the scaling of each of vLLM's classes.
SCALINGS = {
    "RotaryEmbedding": "default",
    "MRotaryEmbedding": "default",
    "Ernie4_5_VLRotaryEmbedding": "default",
    "Llama3RotaryEmbedding": "llama3",
    "LinearScalingRotaryEmbedding": "linear",
    "NTKScalingRotaryEmbedding": "ntk",
    "DynamicNTKScalingRotaryEmbedding": "dynamic",
    "DynamicNTKAlphaRotaryEmbedding": "dynamic",
    "YaRNScalingRotaryEmbedding": "yarn",
    "DeepseekScalingRotaryEmbedding": "deepseek_yarn",
    "Phi3LongRoPEScaledRotaryEmbedding": "longrope",
    "Gemma4RotaryEmbedding": "proportional",
}


class Made(NamedTuple):
    """How a model of vLLM makes the embedding."""

    cls: str  # module:class
    arguments: dict[str, Any]  # by name; a dtype is None
    model_length: int | None  # the most tokens of a sequence, which some classes ask for
    table: tuple[int, ...] | None  # the shape of ``cos_sin_cache``


class Norms(NamedTuple):
    """The norms of q and k, head by head, in the module that has the attention."""

    kind: str  # vLLM's class
    eps: float
    gate: bool  # each head of q is followed by its gate
    attention: str  # the class of that module


class RopeConfig(NamedTuple):
    """A rotary embedding and the heads beside it. What is printed calls it a shape."""

    name: str
    head_size: int
    rotary_dim: int
    num_heads: int
    num_kv_heads: int
    is_neox_style: bool = True
    theta: float = 10000.0
    max_position: int = 8192
    scaling: str = "default"
    parameters: dict[str, Any] | None = None  # the scaling's, as in the configuration
    sections: Sections | None = None  # None: a token has one position, or several in an order that no kernel knows
    layers: int | None = None  # None: not known
    positions: int = 1  # of a token
    made: Made | None = None  # None: it is not from vLLM's own model code
    norms: Norms | None = None  # None: there are none, or it is not known

    @property
    def embedding(self) -> str | None:
        """vLLM's class."""
        return self.made and self.made.cls.rpartition(":")[2].rpartition(".")[2]

    def as_data(self) -> dict[str, Any]:
        """As ``--json`` has it."""
        said = {**self._asdict(), "sections": self.sections and self.sections._asdict(), "embedding": self.embedding}
        return {**said, "made": self.made and self.made._asdict(), "norms": self.norms and self.norms._asdict()}


_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# Head sizes, rotary dims, styles and head counts of models in use. Some rotary dims are not powers of two.
BUILT_IN = (
    RopeConfig("Llama-3.1-8B", 128, 128, 32, 8, True, 500000.0, 131072, "llama3", {"factor": 8.0, **_LLAMA3}),
    RopeConfig("Qwen2.5-7B", 128, 128, 28, 4),
    RopeConfig("Llama-3.2-1B", 64, 64, 32, 8, True, 500000.0, 131072, "llama3", {"factor": 32.0, **_LLAMA3}),
    RopeConfig("GLM-4-9B", 128, 64, 32, 2, False),
    RopeConfig("Phi-3-mini", 96, 96, 32, 32),
    RopeConfig("Phi-4-mini", 128, 96, 24, 8),
    RopeConfig("StableLM-3B", 80, 20, 32, 32),
    RopeConfig("Gemma-2", 256, 256, 16, 8),
    RopeConfig("GLM-5.2 draft", 192, 192, 64, 64),
    RopeConfig("DeepSeek MLA", 64, 64, 128, 1, False),
    RopeConfig("GLM-4.1V", 128, 64, 32, 2, False, sections=Sections("chunked", (8, 12, 12)), positions=3),
    RopeConfig("Qwen3-VL-8B", 128, 128, 32, 8, True, 5e6, sections=Sections("interleaved", (24, 20, 20)), positions=3),
)
