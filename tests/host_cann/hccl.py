"""torch's backend ``hccl`` between processes of this machine, by gloo.

Huawei's library of collective operations is not here. A group of the backend ``hccl`` holds one of gloo, whose
collectives get CPU tensors over the same memory once the device has done what was submitted before. Limits: the
collectives of ``BY_GLOO``, others raise; a collective has ended when its call returns; none is captured in a graph.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from . import operators

BY_GLOO = ("allreduce", "all_gather_single")


def _by_gloo(name: str) -> Callable[..., Any]:
    def collective(group: Any, *arguments: Any) -> Any:
        torch.npu.synchronize()
        work = getattr(group.gloo, name)(*tree_map(operators.on_host, arguments))
        work.wait()
        return work

    return collective


class Group(torch.distributed.ProcessGroup):
    """The process group of some ranks; its own backend, too, which vllm-ascend asks for the name of HCCL's group."""

    def __init__(self, made: Any, options: Any) -> None:
        super().__init__(made.group_rank, made.group_size)  # type: ignore[call-arg]
        place = made.store, made.group_rank, made.group_size
        self.gloo: Any = torch.distributed.ProcessGroup(*place)
        backend = torch.distributed.ProcessGroupGloo(*place, made.timeout)
        self.gloo._register_backend(torch.device("cpu"), self.gloo.BackendType.GLOO, backend)

    def _get_backend(self, device: torch.device) -> Any:
        return self

    def get_hccl_comm_name(self, *rank: Any, **named: Any) -> str:
        return "host CANN"


for _name in BY_GLOO:
    setattr(Group, _name, _by_gloo(_name))


def use() -> None:
    """From now on, make such groups; torch_npu, which registers the backend, is imported."""
    backend = torch.distributed.Backend
    backend._plugins["HCCL"] = backend._BackendPlugin(Group, True)
