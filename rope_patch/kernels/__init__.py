"""The kernels (``rope``, ``padded``), their plans (tiling) and their launch.

Nothing here knows vLLM. Importing this package imports nothing else; its modules import torch and triton.
"""
