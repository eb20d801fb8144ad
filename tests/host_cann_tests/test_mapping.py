"""Ranges of addresses and physical memory mapped to them, through the runtime's C interface."""

import ctypes

import pytest

from tests.host_cann.fixture import needs_build
from tests.host_cann_tests.test_runtime import D2H, H2D, Acl

pytestmark = needs_build
SIZE = 2 << 20


@pytest.fixture(scope="module")
def acl() -> Acl:
    return Acl()


@pytest.fixture
def address(acl: Acl) -> ctypes.c_void_p:
    return acl.handle("aclrtReserveMemAddress", ctypes.c_size_t(SIZE), ctypes.c_size_t(0), None, ctypes.c_uint64(0))


def free_bytes(acl: Acl) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert acl.c.aclrtGetMemInfo(0, ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def mapped(acl: Acl, address: ctypes.c_void_p) -> ctypes.c_void_p:
    memory = acl.handle("aclrtMallocPhysical", ctypes.c_size_t(SIZE), None, ctypes.c_uint64(0))
    assert acl.c.aclrtMapMem(address, ctypes.c_size_t(SIZE), ctypes.c_size_t(0), memory, ctypes.c_uint64(0)) == 0
    return memory


def first_byte(acl: Acl, address: ctypes.c_void_p) -> int | None:
    """None if the device refuses."""
    byte = ctypes.create_string_buffer(1)
    return None if acl.c.aclrtMemcpy(byte, 1, address, 1, D2H) else byte.raw[0]


def test_memory_that_comes_again_has_other_bytes_at_the_same_address(acl, address):
    before = free_bytes(acl)
    memory = mapped(acl, address)
    assert free_bytes(acl) == before - SIZE
    assert acl.c.aclrtMemcpy(address, SIZE, b"a", 1, H2D) == 0
    assert first_byte(acl, address) == ord("a")
    assert acl.c.aclrtUnmapMem(address) == 0
    assert acl.c.aclrtFreePhysical(memory) == 0
    assert free_bytes(acl) == before
    assert first_byte(acl, address) is None
    assert "a range without memory" in acl.message()
    mapped(acl, address)
    assert first_byte(acl, address) == 0xFF


def test_misuse_is_an_error_that_says_so(acl, address):
    assert acl.c.aclrtFree(address) != 0
    assert acl.c.aclrtUnmapMem(address) != 0
    assert "to which nothing is mapped" in acl.message()
    memory = mapped(acl, address)
    assert acl.c.aclrtReleaseMemAddress(address) != 0
    assert "memory is still mapped" in acl.message()
    assert acl.c.aclrtUnmapMem(address) == 0
    assert acl.c.aclrtReleaseMemAddress(address) == 0
    assert acl.c.aclrtFreePhysical(memory) == 0
    assert acl.c.aclrtFreePhysical(memory) != 0


def test_torch_npu_is_told_that_there_are_no_ranges_for_its_expandable_segments(acl):
    made = ctypes.c_void_p()
    refused = acl.c.aclrtReserveMemAddress(ctypes.byref(made), ctypes.c_size_t(512), ctypes.c_size_t(0), None, 1)
    assert refused == 207000  # ACL_ERROR_RT_FEATURE_NOT_SUPPORT
