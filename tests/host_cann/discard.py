"""Launches that the runtime discards, to measure the host's part alone."""

import contextlib
import ctypes
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def launches(torch: ModuleType) -> Iterator[None]:
    """Inside, launched kernels do not run: the runtime's launch entry returns at once."""
    library = ctypes.CDLL("libascendcl.so")
    torch.npu.synchronize()
    library.host_cann_discard_launches(True)
    try:
        yield
    finally:
        torch.npu.synchronize()  # torch-npu's queue may still hold launches
        library.host_cann_discard_launches(False)
