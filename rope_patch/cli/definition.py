"""What is right: the rotation by rows of the module's own table; or, where a class has an order of its own, vLLM's
PyTorch code for it, in fp64."""

import copy
from typing import Any, NamedTuple

import torch

from rope_patch.cli import layout, synthetic
from rope_patch.cli.rope_config import SCALINGS, RopeConfig
from rope_patch.operators import reference

LONGROPE = "Phi3LongRoPEScaledRotaryEmbedding"


class Exact(NamedTuple):
    """What is right for one call."""

    rotary_dim: int
    is_neox_style: bool
    rows: torch.Tensor | None  # of the table, on the host, one for each token
    rotated: tuple[torch.Tensor, torch.Tensor] | None  # q and k as vLLM's own code rotates them in fp64


class Definition:
    """What is right for one module, whose table has so many ``rows`` that positions may name."""

    def __init__(
        self, rotary_dim: int, is_neox_style: bool, axes: str, table: torch.Tensor | None, module: Any
    ) -> None:
        self.rotary_dim, self.is_neox_style, self.axes = rotary_dim, is_neox_style, axes
        self.table = table  # on the device; None: it is not the table alone that decides
        self.host = None if table is None else table.cpu()
        self.module = module  # in fp64, on the host, where there is no table
        self.rows = len(table) if table is not None else len(module.cos_sin_cache)

    @staticmethod
    def of_table(table: torch.Tensor, rotary_dim: int, is_neox_style: bool, axes: str) -> "Definition":
        return Definition(rotary_dim, is_neox_style, axes, table, None)

    @staticmethod
    def of_module(module: Any, rope: RopeConfig) -> "Definition":
        """That of one of vLLM's modules, or of the class that stands in for it."""
        axes = synthetic.axes_of(rope)
        table = _table(module)
        # Of several positions a token, the table alone does not say which lanes turn by which.
        known = _vllms(module) in SCALINGS and (rope.positions == 1 or bool(axes))
        if known and table is not None and table.shape[-1] == module.rotary_dim:
            return Definition(module.rotary_dim, module.is_neox_style, axes, table, None)
        exact = copy.deepcopy(module).cpu().double()
        return Definition(module.rotary_dim, module.is_neox_style, axes, None, exact)

    def of(self, positions: torch.Tensor, tensors: tuple[torch.Tensor, torch.Tensor]) -> Exact:
        """What is right for these tensors."""
        if self.host is not None:
            rows = reference.rows_of(positions.cpu(), self.host, self.axes)
            return Exact(self.rotary_dim, self.is_neox_style, rows, None)
        query, key = (tensor.cpu().double() for tensor in tensors)
        rotated = self.module.forward_native(positions.cpu(), *layout.given(self.module, query, key))
        return Exact(self.rotary_dim, self.is_neox_style, None, rotated)


def _table(module: Any) -> torch.Tensor | None:
    """Its cosines and sines, as calls of this process use them."""
    if _vllms(module) == LONGROPE:
        both: torch.Tensor = module.long_short_cos_sin_cache
        short = module.original_max_position_embeddings
        return both[short:] if getattr(module, "use_long_rope", False) else both[:short]
    table: torch.Tensor | None = getattr(module, "cos_sin_cache", None)
    return table


def _vllms(module: Any) -> str:
    """The name of vLLM's class: vllm-ascend has subclasses of some, with names of their own."""
    return next(cls.__name__ for cls in type(module).__mro__ if cls.__module__.split(".")[0] == "vllm")
