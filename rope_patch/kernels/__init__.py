"""The kernels (``rope``, ``padded``) and what surrounds them: ``plan`` (tiling), ``launch``.

Nothing here knows vLLM. Importing this package imports nothing; its modules import torch and triton.
"""
