"""Two checks at a time, and a fork during one, leave PyTorch's number of threads as it was."""

import pytest

from tests.conftest import FORKS_BESIDE_THREADS, Run

pytest.importorskip("torch", reason="it is about PyTorch")

CODE = """
import os, signal, threading, torch
from rope_patch.serving import one_thread as module
torch.set_num_threads(3)

def numbers():
    "What this thread has, and what one has that asks for the first time."
    found = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start(); later.join()
    return found

def check(begun, end, seen):
    with module.one_thread():
        begun.set()
        end.wait()
        seen.append(torch.get_num_threads())
    seen.append(torch.get_num_threads())

def two(order):
    "Two threads that come in one after the other, and go in some order."
    seen, events = [], {name: (threading.Event(), threading.Event()) for name in "ab"}
    threads = {name: threading.Thread(target=check, args=(*events[name], seen)) for name in "ab"}
    for name in "ab":
        threads[name].start()
        events[name][0].wait()
    for name in order:
        events[name][1].set()
        threads[name].join()
    return seen, numbers()

def forked(locked):
    "In a child, while a thread of its parent checks."
    begun, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=check, args=(begun, end, []))
    thread.start()
    begun.wait()
    if locked:
        module._lock.acquire()
    child = os.fork()
    if not child:
        signal.alarm(100)  # ends a child that waits forever
        with module.one_thread():
            inside = torch.get_num_threads()
        print("forked", inside, numbers(), flush=True)
        os._exit(0)
    if locked:
        module._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    end.set()
    thread.join()
    return numbers()

def forked_inside():
    with module.one_thread():
        child = os.fork()
        inside = torch.get_num_threads()
    if not child:
        print("forked inside", inside, numbers(), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return numbers()

for act, given in ((two, "ab"), (two, "ba"), (forked, False), (forked, True)):
    print(act.__name__, given, act(given), flush=True)
print(forked_inside(), flush=True)
"""


def test_two_checks_at_a_time_and_forks_leave_the_number_of_threads_as_it_was(python: Run) -> None:
    assert python(CODE, flags=FORKS_BESIDE_THREADS).splitlines() == [
        "two ab ([1, 3, 1, 3], [3, 3])",
        "two ba ([1, 3, 1, 3], [3, 3])",
        "forked 1 [3, 3]",
        "forked False [3, 3]",
        "forked 1 [3, 3]",
        "forked True [3, 3]",
        "forked inside 1 [3, 3]",
        "[3, 3]",
    ]
