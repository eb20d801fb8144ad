"""Task groups and external events, through the runtime's C interface: what a graph replaces between replays."""

import ctypes
from collections.abc import Callable, Iterator

import pytest

from tests.host_cann.fixture import needs_build
from tests.host_cann_tests.test_runtime import Acl

pytestmark = needs_build
Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
EXTERNAL = 0x20  # ACL_EVENT_EXTERNAL


class Graph:
    """A graph of two tasks, the second in a group, before which it waits for an external event if it is ``careful``."""

    def __init__(self, acl: Acl, careful: bool = True) -> None:
        self.c, self.ran, self.kept = acl.c, [], []
        self.main, self.other = acl.handle("aclrtCreateStream"), acl.handle("aclrtCreateStream")
        self.event = acl.handle("aclrtCreateEventExWithFlag", EXTERNAL)
        assert self.c.aclmdlRICaptureBegin(self.main, 0) == 0
        self.task(self.main, "first")
        if careful:
            assert self.c.aclrtStreamWaitEvent(self.main, self.event) == 0
            assert self.c.aclrtResetEvent(self.event, self.main) == 0
        assert self.c.aclmdlRICaptureTaskGrpBegin(self.main) == 0
        self.task(self.main, "captured")
        self.group = ctypes.c_void_p()
        assert self.c.aclmdlRICaptureTaskGrpEnd(self.main, ctypes.byref(self.group)) == 0
        self.task(self.main, "last")
        self.model = ctypes.c_void_p()
        assert self.c.aclmdlRICaptureEnd(self.main, ctypes.byref(self.model)) == 0

    def task(self, stream: ctypes.c_void_p, name: str) -> None:
        self.kept.append(Task(lambda _: self.ran.append(name)))
        assert self.c.aclrtLaunchHostFunc(stream, self.kept[-1], None) == 0

    def replay(self) -> None:
        assert self.c.aclmdlRIExecuteAsync(self.model, self.main) == 0

    def update(self, *names: str) -> None:
        assert self.c.aclmdlRICaptureTaskUpdateBegin(self.other, self.group) == 0
        for name in names:
            self.task(self.other, name)
        assert self.c.aclmdlRICaptureTaskUpdateEnd(self.other) == 0

    def record(self) -> None:
        assert self.c.aclrtRecordEvent(self.event, self.other) == 0

    def wait(self) -> list[str]:
        """What ran since the last time."""
        self.ran.clear()
        assert self.c.aclrtSynchronizeStream(self.main) == 0
        return list(self.ran)


@pytest.fixture(scope="module")
def acl() -> Acl:
    return Acl()


@pytest.fixture
def graph(acl: Acl) -> Iterator[Graph]:
    made = Graph(acl)
    yield made
    assert acl.c.aclmdlRIDestroy(made.model) == 0


def test_each_replay_runs_the_tasks_that_the_group_was_given_last(graph: Graph) -> None:
    graph.replay()
    graph.update("new")
    graph.record()
    assert graph.wait() == ["first", "new", "last"]
    graph.replay()
    graph.update("newer", "and another")
    graph.record()
    assert graph.wait() == ["first", "newer", "and another", "last"]
    graph.replay()
    graph.record()
    assert graph.wait() == ["first", "newer", "and another", "last"]


def test_a_graph_that_does_not_wait_runs_what_it_has(acl: Acl) -> None:
    graph = Graph(acl, careful=False)
    graph.replay()
    graph.update("new")
    assert graph.wait() == ["first", "captured", "last"]


def test_a_replay_waits_for_a_record_of_its_own(acl: Acl, graph: Graph) -> None:
    graph.replay()
    graph.record()
    graph.wait()
    graph.replay()
    try:
        assert acl.c.aclrtSynchronizeStream(graph.main) != 0
        assert "an external event that nobody has recorded" in acl.message()
    finally:
        assert acl.c.aclrtResetDevice(0) == 0  # the fault stays until then


@pytest.mark.parametrize(
    "call",
    [
        lambda graph: graph.c.aclmdlRICaptureTaskGrpBegin(graph.main),
        lambda graph: graph.c.aclmdlRICaptureTaskGrpEnd(graph.main, ctypes.byref(ctypes.c_void_p())),
        lambda graph: graph.c.aclmdlRICaptureTaskUpdateBegin(graph.other, graph.model),
        lambda graph: graph.c.aclmdlRICaptureTaskUpdateEnd(graph.other),
    ],
    ids=["group outside a capture", "end without begin", "update of no group", "update without begin"],
)
def test_misuse_is_an_error(graph: Graph, call: Callable[[Graph], int]) -> None:
    assert call(graph) != 0
