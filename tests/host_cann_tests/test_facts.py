"""The facts of launches, for kernels whose answers are known."""

import pytest

from tests.host_cann.fixture import needs_build

pytestmark = needs_build


@pytest.fixture(scope="module")
def facts():
    from tests.host_cann import facts

    return facts


def test_a_launch_has_its_grid_and_every_row_that_it_moved(npu, facts):
    from tests.host_cann.sample_kernels import add_one, copy_rows

    x, y = npu.zeros(64, 96).half().npu(), npu.zeros(64, 96).half().npu()
    flat = npu.zeros(1000).npu()

    def work():
        copy_rows[(5,)](x, y, 64, 96, ROWS=8, WIDTH=96)
        add_one[(2, 4)](flat, 1000, BLOCK=128)

    copied, added = facts.launched(npu, work)
    assert copied.grid == (5, 1, 1)
    assert added.grid == (2, 4, 1)
    assert {(t.bursts, t.burst_bytes) for t in copied.transfers} == {(8, 96 * 2)}
    assert copied.bytes_moved("load", x) == copied.bytes_moved("store", y) == 64 * 96 * 2
    assert copied.bytes_moved("store", x) == 0
    assert [t.program for t in copied.of("store", y)] == [0, 0, 1, 1, 2, 2, 3, 4]
    assert copied.ub_bytes == 2 * 8 * 96 * 2, "one buffer, held twice for the pipeline"
    assert added.vector_operations == {"VADDS.f32": 8}


def test_vector_operations_and_what_each_pipe_was_given_are_counted(npu, facts):
    from tests.host_cann.sample_kernels import multiply_add

    x, y, z = (npu.zeros(256).npu() for _ in range(3))
    (found,) = facts.launched(npu, lambda: multiply_add[(1,)](x, y, z, BLOCK=256))
    assert found.vector_operations == {"VMUL.f32": 1, "VADD.f32": 1}
    assert found.pipes["V"] == facts.Work(instructions=2, repeats=2 * 256 * 4 // 256)
    assert found.pipes["MTE2"].instructions == 3
    assert found.pipes["MTE3"].instructions == 1
    assert found.flags > 0
    assert found.barriers > 0


def test_scalar_accesses_of_global_memory_are_seen(npu, facts):
    from tests.host_cann.sample_kernels import indirect

    x, y, index = npu.arange(256.0).npu(), npu.zeros(64).npu(), npu.tensor([2], dtype=npu.int32).npu()
    (found,) = facts.launched(npu, lambda: indirect[(1,)](x, y, index, BLOCK=64))
    assert (found.global_scalars, found.buffer_scalars) == (1, 0)
    assert y.cpu().tolist() == list(range(128, 192))


def test_what_ran_before_is_not_among_the_launches(npu, facts):
    from tests.host_cann.sample_kernels import add_one

    x = npu.zeros(1000).npu()
    add_one[(8,)](x, 1000, BLOCK=128)  # still queued when the watch begins
    assert facts.launched(npu, lambda: None) == []
    assert [found.grid for found in facts.launched(npu, lambda: add_one[(3,)](x, 300, BLOCK=128))] == [(3, 1, 1)]


def test_kernels_are_counted_by_name_where_they_run(npu, facts):
    from tests.host_cann.sample_kernels import add_one, copy_rows

    x, y = npu.zeros(8, 96).half().npu(), npu.zeros(8, 96).half().npu()
    flat = npu.zeros(1000).npu()
    with facts.counted(npu) as counts:
        copy_rows[(1,)](x, y, 8, 96, ROWS=8, WIDTH=96)
        for _ in range(2):
            add_one[(8,)](flat, 1000, BLOCK=128)
    add_one[(8,)](flat, 1000, BLOCK=128)
    npu.npu.synchronize()
    assert counts == {"copy_rows": 1, "add_one": 2}
