"""What is known here of an operator: its calls; and where their results are written to."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch

from rope_patch.kernels.launch import Launch
from rope_patch.kernels.plan import Device, Plan
from rope_patch.kernels.planning import Kernels
from rope_patch.serving.sample import Sample

Tensors = tuple[torch.Tensor | None, ...]


class New(NamedTuple):
    """A result that is a new contiguous tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


Results = tuple[New | None, ...]


class Call(ABC):
    """A call of an operator, its arguments accepted. An operator is a class of calls, and states itself there.

    Its kernels take ``written``, then one new tensor for each of ``results`` (None: it has none), then ``read``, then
    the launch's numbers.
    """

    name: ClassVar[str]  # as a person reads it: "native NAME for ..."
    kernels: ClassVar[Kernels]  # which can serve it
    shared: ClassVar[str] = ""  # why a call is handed back whose ``written`` overlap
    again: ClassVar[bool] = False  # whether it may be computed again whatever happened: it reads nothing that it writes
    runs: ClassVar[int] = 1  # how often the first-use check runs each kernel: results must be the same at each run

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """0 if there is nothing to compute."""

    @property
    def written(self) -> Tensors:
        """The tensors that may be results themselves: number i is result i where ``results`` has None."""
        return ()

    @property
    @abstractmethod
    def results(self) -> Results:
        """For each result, what is new; None if it is in place, or missing as the tensor in its place is."""

    @property
    @abstractmethod
    def read(self) -> Tensors:
        """The tensors that are only read."""

    @property
    @abstractmethod
    def shape(self) -> Any:
        """The part of the call that its plans follow from, hashable."""

    @property
    def in_place(self) -> list[torch.Tensor]:
        """The results that are tensors of the call."""
        both = zip(self.written, self.results, strict=False)
        return [tensor for tensor, new in both if tensor is not None and new is None]

    @property
    def device(self) -> torch.device:
        return next(tensor.device for tensor in (*self.written, *self.read) if tensor is not None)

    def memory(self, *new: torch.Tensor | None) -> Tensors:
        """The kernel's first arguments."""
        return (*self.written, *new, *self.read)

    def answer(self, *new: torch.Tensor | None) -> Tensors:
        """The results."""
        made = enumerate(zip(self.results, new, strict=True))
        return tuple(self.written[i] if result is None else tensor for i, (result, tensor) in made)

    @abstractmethod
    def launch(self, plan: Plan, device: Device) -> Launch:
        """The launch of at least one token by ``plan``."""

    @abstractmethod
    def words(self, device: Device) -> tuple[object, ...]:
        """All that the compiled kernel depends on, except the number of tokens and the device: the signature."""

    @abstractmethod
    def scratch(self, device: Device) -> int:
        """Bytes that a token of ``synthetic``'s tensors takes, new results included."""

    @abstractmethod
    def synthetic(self, num_tokens: int, device: Device) -> tuple["Call", list[Sample]]:
        """A call of the same signature on random tensors, and what is right for each result that is not missing.

        Raises:
            NotNow: what the result depends on is not there yet.
        """


def new_tensors(results: Results, device: torch.device) -> Tensors:
    """One for each result; None for what is in place, or missing."""
    return tuple(new and torch.empty(new.shape, dtype=new.dtype, device=device) for new in results)


def clash(written: Tensors, results: Results) -> tuple[int, int]:
    """Between which distances, in bytes from the first of two tensors to the second, they overlap and one of them is
    written in place: zeros if never."""
    spans = [_span(tensor) for tensor in written if tensor is not None]
    if len(spans) < 2 or None not in results or not all(spans):
        return 0, 0
    first, second = spans
    return -second, first


def overlap(written: Tensors, clashing: tuple[int, int]) -> bool:
    """Whether some memory would be written twice in place."""
    least, most = clashing
    first, second = (tensor.data_ptr() for tensor in written if tensor is not None) if most else (0, 0)
    return least < second - first < most


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the start of a tensor's first element to the end of its last; 0 if it has no element."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + last) * tensor.element_size() if tensor.numel() else 0
