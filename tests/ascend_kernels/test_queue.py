"""Rotations and torch-npu's queue: a rotation does not overtake what was queued before it, nor wait without need.

torch-npu hands its operators to a queue, which a thread of its own empties into the stream. triton-ascend's launchers
are compiled to go through that queue as well, or straight to the stream, and torch-npu can be told to have no queue.
"""

import pytest

from tests.host_cann import fixture
from tests.host_cann.fixture import needs_build

pytestmark = needs_build

SETTING = """
import ctypes
import torch_npu
from rope_patch.operators.rotation import Rotation
from rope_patch.reporting import ledger
from rope_patch.operators import contract
from rope_patch.kernels.launch import Launch
from tests.rotations import assert_rotated, rotation

ascendcl = ctypes.CDLL("libascendcl.so")

def made(seed, strided):
    return rotation(12, 4, 2, 64, 64, seed=seed, strided=strided)

def serve(case):
    rotated = contract.serve(case.positions, case.query, case.key, case.cache, Rotation(64, 64, True))
    assert rotated is not None, ledger.fallbacks()
    return rotated

def only_launchers():
    "The kernels are known from here on: each call is its launcher's, and none goes through Triton."
    for strided in (True, False):
        serve(made(0, strided))
    del Launch.on
"""
OVERTAKEN = """
only_launchers()
for strided in (True, False):
    case, other = made(1, strided), made(2, strided)
    torch.npu.synchronize()
    ascendcl.host_cann_hold_copies({hold_ms})
    for to, source in ((case.storage, other.storage), (case.query, other.query), (case.key, other.key)):
        if to.is_contiguous():
            to.copy_(source)
    rotated = serve(case)
    print("at once" if ascendcl.host_cann_holds_copies() else "later")
    ascendcl.host_cann_hold_copies(0)
    assert_rotated(case, other.query, rotated[0])
    assert_rotated(case, other.key, rotated[1])
"""


# How triton-ascend launches, whether torch-npu has a queue, whether it has the getter that does not wait (since
# 26.0.0), and whether a call may return while the queue stands still.
@pytest.mark.parametrize(
    ("launches", "queue", "getter", "returns"),
    [
        ("queued", "1", "", "at once"),
        ("queued", "1", "del torch_npu._C._npu_getCurrentRawStreamNoWait", "later"),
        ("direct", "1", "", "later"),
        ("queued", "0", "", "later"),
        ("direct", "0", "", "later"),
    ],
)
def test_a_rotation_comes_after_what_was_queued_before_it(launches, queue, getter, returns):
    """A copy into query and key is kept from being submitted until a kernel is launched, or for some time."""
    hold_ms = 300_000 if returns == "at once" else 500  # in the first case it ends when the call returned
    done = fixture.run_script(
        f"{SETTING}\n{getter}\n{OVERTAKEN.format(hold_ms=hold_ms)}",
        TRITON_ENABLE_TASKQUEUE=str(launches == "queued").lower(),
        TASK_QUEUE_ENABLE=queue,
    )
    assert done.stdout.splitlines() == [returns] * 2, done.stdout + done.stderr[-2000:]


def test_once_a_rotation_is_queued_its_memory_may_be_used_again():
    """Memory is given out again in the order of the stream. So it has to be held until the launch is queued, by the
    caller's variables and ours, and no longer."""
    done = fixture.run_script(
        SETTING
        + """
only_launchers()
blocker, other = torch.zeros(1000).npu(), torch.ones(1000).npu()
for strided in (True, False):
    case, known = made(1, strided), made(1, strided)
    spoilt = torch.full_like(case.storage, float("nan")).view(-1)
    torch.npu.synchronize()
    ascendcl.host_cann_hold_copies(300_000)
    blocker.copy_(other)
    rotated = serve(case)
    freed = [tensor.data_ptr() for tensor in (case.storage, case.cache)]
    sizes = case.storage.numel(), case.cache.numel()
    del case
    taken = []  # all that is free in such pieces
    for size in sizes:
        for _ in range(200):
            taken.append(torch.empty_like(spoilt[:size]))
            taken[-1].copy_(spoilt[:size])
    assert ascendcl.host_cann_holds_copies(), "none of this waited"
    ascendcl.host_cann_hold_copies(0)
    for address in freed:
        assert any(m.data_ptr() <= address < m.data_ptr() + m.nbytes for m in taken), "or nothing was shown"
    assert_rotated(known, known.query, rotated[0])
    assert_rotated(known, known.key, rotated[1])
print("right")
"""
    )
    assert "right" in done.stdout, done.stderr[-2000:]


def test_the_thread_that_polls_may_wait_longer():
    """torch-npu's thread that frees waits a microsecond at a time, which Linux may make longer (``waiting.c``)."""
    done = fixture.run_script(
        """
import pathlib
from tests.host_cann import fixture
fixture.initialise().ones(1).npu().cpu()
threads = {(task / "comm").read_text().strip(): task.name for task in pathlib.Path("/proc/self/task").iterdir()}
print(pathlib.Path("/proc", threads["release_thread"], "timerslack_ns").read_text().strip())
"""
    )
    assert done.stdout.split() == ["5000000"], done.stdout + done.stderr[-2000:]
