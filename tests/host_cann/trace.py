"""What the vector cores did during a watch: the events that ``hivmc/core/trace.c`` records.

with trace.watch() as watched:
    ...                       # launches; and wait for them
for events in watched.launches():
    ...                       # a NumPy record array, in the order of issue, program after program
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator

import numpy as np

from . import environment
from .hivmc import library

# As ``event`` in trace.c.
EVENT = np.dtype(
    [
        ("name", "u8"),  # see ``name_of``; 0 for flags and barriers
        ("address", "u8"),
        ("pitch", "i8"),
        ("repeats", "u4"),
        ("bursts", "u4"),
        ("burst_bytes", "u4"),
        ("block", "u4"),
        ("site", "u4"),
        ("kind", "u1"),
        ("pipe", "u1"),
        ("to", "u1"),
        ("event", "u1"),
    ]
)
VECTOR, LOAD, STORE, COPY, SCALAR, SET, WAIT, BARRIER, BEGIN = range(9)  # kinds; BEGIN is a program's first event
PIPES = ("S", "V", "M", "MTE1", "MTE2", "MTE3", "ALL")


@functools.cache
def _core() -> ctypes.CDLL:
    found = ctypes.CDLL(str(environment.home() / "vectorcore" / library.NAME))
    found.core_events.restype = ctypes.c_size_t
    return found


@functools.cache
def name_of(address: int) -> str:
    """The instruction behind an event's ``name``."""
    return ctypes.string_at(address).decode() if address else ""


class Watch:
    """The events since the watch began; taken when it ends."""

    events: np.ndarray = np.empty(0, EVENT)

    def launches(self) -> list[np.ndarray]:
        """One array a launch: it begins where program 0 does."""
        begins = np.flatnonzero((self.events["kind"] == BEGIN) & (self.events["block"] == 0))
        return np.split(self.events, begins)[1:]


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
    """Record events inside. The caller must wait for its launches before it begins and before it leaves."""
    result = Watch()
    _core().core_watch(True)
    try:
        yield result
    finally:
        _core().core_watch(False)
        at = ctypes.c_void_p()
        count = _core().core_events(ctypes.byref(at))
        if count:
            size = count * EVENT.itemsize
            result.events = np.frombuffer(ctypes.string_at(at.value, size), EVENT)


@contextlib.contextmanager
def ignored(*sites: int) -> Iterator[None]:
    """Inside, the flags and barriers in those lines of a program have no effect."""
    for site in sites:
        _core().core_ignore(site, True)
    try:
        yield
    finally:
        for site in sites:
            _core().core_ignore(site, False)


@contextlib.contextmanager
def every_race() -> Iterator[None]:
    """Inside, kernels that are known to race (``hivmc/entry.py``) are refused too."""
    _core().core_check_all(True)
    try:
        yield
    finally:
        _core().core_check_all(False)
