"""Triton kernels, each with its plans (tiling), and their launch.

Nothing here knows vLLM. Importing this package imports nothing else; its modules import torch and triton.
"""
