from .base import RotaryEmbedding  # noqa: F401
