"""Computing on the host in one thread: a forked process has no PyTorch thread pool and would wait for it forever."""

import contextlib
import os
import threading
from collections.abc import Iterator

import torch

# The threads that are in here, each with PyTorch's number of threads to go back to. PyTorch keeps that number for each
# thread, and one for all threads that have not asked for it yet: those find the 1 of whoever is in here.
_inside: dict[int, int] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Set PyTorch's number of threads to 1, and back to what it was before the first of all who are in here."""
    me = threading.get_ident()
    with _lock:
        _inside[me] = _own_number()
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(_inside.pop(me))


def _own_number() -> int:
    """This thread's number; that of the others in here if it is 1, which then is theirs."""
    number = torch.get_num_threads()
    return max(_inside.values(), default=1) if number == 1 else number


def _leave_the_others() -> None:
    """In a forked process only this thread is left. The lock may have been another's."""
    global _lock
    _lock = threading.Lock()
    mine = _inside.get(threading.get_ident())
    if _inside and mine is None:
        torch.set_num_threads(_own_number())
    _inside.clear()
    if mine is not None:
        _inside[threading.get_ident()] = mine


os.register_at_fork(after_in_child=_leave_the_others)
