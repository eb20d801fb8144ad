"""The runtime by itself, through its C interface: memory, copies, streams, events."""

import ctypes

import pytest

from tests.host_cann import build, chips
from tests.host_cann.fixture import needs_build

pytestmark = needs_build
H2H, H2D, D2H, D2D = range(4)


class Acl:
    """``libascendcl.so`` with the few conveniences that the tests share."""

    def __init__(self) -> None:
        self.c = ctypes.CDLL(str(build.ensure() / "lib64" / "libascendcl.so"))
        self.c.aclGetRecentErrMsg.restype = ctypes.c_char_p

    def message(self) -> str:
        return self.c.aclGetRecentErrMsg().decode()

    def handle(self, create: str, *arguments: object) -> ctypes.c_void_p:
        result = ctypes.c_void_p()
        assert getattr(self.c, create)(ctypes.byref(result), *arguments) == 0
        return result

    def malloc(self, size: int) -> ctypes.c_void_p:
        return self.handle("aclrtMalloc", ctypes.c_size_t(size), 0)

    def pinned(self, size: int) -> ctypes.c_void_p:
        return self.handle("aclrtMallocHost", ctypes.c_size_t(size))


@pytest.fixture(scope="module")
def acl() -> Acl:
    return Acl()


@pytest.mark.parametrize("chip", chips.CHIPS.values(), ids=chips.CHIPS)
def test_the_chip_is_what_the_setting_says(acl, monkeypatch, chip):
    # The C library's own copy of the environment: Python's os.environ writes there too.
    monkeypatch.setenv(chips.SETTING, chip.name)
    acl.c.aclrtGetSocName.restype = ctypes.c_char_p
    assert acl.c.aclrtGetSocName().decode() == chip.soc_name
    cores = ctypes.c_int64()
    for which, expected in enumerate((chip.cube_cores, chip.vector_cores)):  # ACL_DEVICE_INFO_*_CORE_NUM
        assert acl.c.aclGetDeviceCapability(0, which, ctypes.byref(cores)) == 0
        assert cores.value == expected


def test_freeing_twice_is_an_error_that_says_so(acl):
    p = acl.malloc(100)
    assert acl.c.aclrtFree(p) == 0
    assert acl.c.aclrtFree(p) != 0
    assert "double free" in acl.message()


def test_freeing_what_was_never_allocated_is_an_error(acl):
    p = acl.malloc(100)
    assert acl.c.aclrtFree(ctypes.c_void_p(p.value + 32)) != 0
    assert "byte 32 of an allocation of 100 bytes" in acl.message()


def test_copying_past_an_allocation_is_an_error_that_says_where(acl):
    p, host = acl.malloc(100), ctypes.create_string_buffer(200)
    assert acl.c.aclrtMemcpy(p, 200, host, 101, H2D) != 0
    assert "101 bytes" in acl.message()
    assert "of 100 bytes" in acl.message()
    assert acl.c.aclrtMemcpy(p, 50, host, 60, H2D) != 0
    assert "room for 50" in acl.message()
    assert acl.c.aclrtMemcpy(p, 100, host, 100, H2D) == 0


def test_copying_from_freed_memory_is_an_error(acl):
    p, host = acl.malloc(100), ctypes.create_string_buffer(100)
    acl.c.aclrtFree(p)
    assert acl.c.aclrtMemcpy(host, 100, p, 100, D2H) != 0
    assert "freed" in acl.message()


def test_more_memory_than_the_chip_has_is_refused(acl):
    assert acl.c.aclrtMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1 << 40), 0) == 207001
    assert "out of device memory" in acl.message()


def test_a_stream_does_nothing_before_somebody_waits(acl):
    stream, a, b = acl.handle("aclrtCreateStream"), acl.pinned(8), acl.pinned(8)
    ctypes.memset(a, 7, 8)
    ctypes.memset(b, 0, 8)
    assert acl.c.aclrtMemcpyAsync(b, 8, a, 8, H2H, stream) == 0
    assert ctypes.string_at(b, 8) == bytes(8)
    assert acl.c.aclrtSynchronizeStream(stream) == 0
    assert ctypes.string_at(b, 8) == bytes([7] * 8)


def test_waiting_for_an_event_runs_its_stream_up_to_there(acl):
    stream, event, a = acl.handle("aclrtCreateStream"), acl.handle("aclrtCreateEventExWithFlag", 0), acl.malloc(1)
    assert acl.c.aclrtMemsetAsync(a, 1, 5, 1, stream) == 0
    assert acl.c.aclrtRecordEvent(event, stream) == 0
    assert acl.c.aclrtMemsetAsync(a, 1, 9, 1, stream) == 0
    assert acl.c.aclrtSynchronizeEvent(event) == 0
    assert ctypes.string_at(a, 1) == b"\x05"
    assert acl.c.aclrtSynchronizeStream(stream) == 0
    assert ctypes.string_at(a, 1) == b"\x09"


def test_a_stream_that_waits_for_an_event_sees_the_work_before_it(acl):
    first, second = acl.handle("aclrtCreateStream"), acl.handle("aclrtCreateStream")
    event, a, b = acl.handle("aclrtCreateEventExWithFlag", 0), acl.malloc(4), acl.malloc(4)
    assert acl.c.aclrtMemset(a, 4, 0, 4) == 0
    assert acl.c.aclrtMemsetAsync(a, 4, 3, 4, first) == 0
    assert acl.c.aclrtRecordEvent(event, first) == 0
    assert acl.c.aclrtStreamWaitEvent(second, event) == 0
    assert acl.c.aclrtMemcpyAsync(b, 4, a, 4, D2D, second) == 0
    assert acl.c.aclrtSynchronizeStream(second) == 0
    assert ctypes.string_at(b, 4) == b"\x03" * 4


def test_without_the_event_it_does_not(acl):
    first, second = acl.handle("aclrtCreateStream"), acl.handle("aclrtCreateStream")
    a, b = acl.malloc(4), acl.malloc(4)
    assert acl.c.aclrtMemset(a, 4, 0, 4) == 0
    assert acl.c.aclrtMemsetAsync(a, 4, 3, 4, first) == 0
    assert acl.c.aclrtMemcpyAsync(b, 4, a, 4, D2D, second) == 0
    assert acl.c.aclrtSynchronizeStream(second) == 0
    assert ctypes.string_at(b, 4) == bytes(4)


def test_polling_an_event_ends(acl):
    stream, event, a = acl.handle("aclrtCreateStream"), acl.handle("aclrtCreateEventExWithFlag", 0), acl.malloc(1)
    for _ in range(3):
        assert acl.c.aclrtMemsetAsync(a, 1, 1, 1, stream) == 0
    assert acl.c.aclrtRecordEvent(event, stream) == 0
    answers = []
    while not answers or not answers[-1]:
        status = ctypes.c_int()
        assert acl.c.aclrtQueryEventStatus(event, ctypes.byref(status)) == 0
        answers.append(status.value)
    assert answers == [0, 0, 0, 0, 1]


def test_a_destroyed_stream_is_refused(acl):
    stream = acl.handle("aclrtCreateStream")
    assert acl.c.aclrtDestroyStream(stream) == 0
    assert acl.c.aclrtSynchronizeStream(stream) != 0
    assert "no stream" in acl.message()


@pytest.mark.parametrize(("place", "said"), [(100, "0 bytes past"), (-7, "7 bytes before")])
def test_a_write_beside_an_allocation_is_noticed_when_it_is_freed(acl, place, said):
    """Between an allocation and its guard pages there may be bytes, of the same page, which hold a pattern."""
    p = acl.malloc(100)
    ctypes.memset(p.value + place, 0, 1)
    assert acl.c.aclrtFree(p) != 0
    assert f"a write {said} an allocation of 100 bytes, before it was freed" in acl.message()
