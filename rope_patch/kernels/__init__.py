"""The kernel and what surrounds it: ``rope`` (Triton source), ``plan`` (tiling), ``launch``.

Nothing here knows vLLM. Importing this package imports nothing; its modules import torch and triton.
"""
