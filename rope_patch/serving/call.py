"""What is known here of an operator: its calls."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.plan import Device, Plan
from rope_patch.kernels.planning import Kernels
from rope_patch.serving.sample import Sample

# A call's tensors that its kernel writes, or the new tensors with their results; the second one may be missing.
Pair = tuple[torch.Tensor, torch.Tensor | None]
InPlace = tuple[bool, bool]  # which of the two are written in place; what is missing is not


class Call(ABC):
    """A call of an operator, its arguments accepted. An operator is a class of calls, and states itself there.

    Its kernels take ``memory``: two tensors that they write, the two new ones for the results (None: in place), and
    whatever else they read; then the launch's numbers.
    """

    kernels: ClassVar[Kernels]  # which can serve it
    shared: ClassVar[str]  # why a call is handed back whose two tensors overlap, and would be written in place

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """0 if there is nothing to compute."""

    @property
    @abstractmethod
    def written(self) -> Pair:
        """The tensors that are written, or have the results' shapes."""

    @property
    def device(self) -> torch.device:
        return self.written[0].device

    @abstractmethod
    def memory(self, *outputs: Any) -> tuple[Any, ...]:
        """The kernel's first arguments."""

    @abstractmethod
    def shape(self, fresh: bool) -> Any:
        """The part of the call that its plans follow from, hashable; ``fresh`` if it has an output of its own."""

    @abstractmethod
    def launch(self, shape: Any, plan: Plan, device: Device) -> Launch:
        """The launch of at least one token by ``plan``."""

    @abstractmethod
    def words(self, shape: Any, device: Device, in_place: InPlace) -> tuple[object, ...]:
        """All that the compiled kernel depends on, except the number of tokens and the device: the signature."""

    @abstractmethod
    def scratch(self, device: Device, in_place: InPlace) -> int:
        """Bytes that a token of ``synthetic``'s tensors takes, fresh results included."""

    @abstractmethod
    def synthetic(self, num_tokens: int, device: Device, in_place: InPlace) -> tuple["Call", list[Sample]]:
        """A call of the same signature on random tensors, and what is right for each that it writes.

        Raises:
            NotNow: what the result depends on is not there yet.
        """
