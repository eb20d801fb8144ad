"""The facts read off the front end's output, for kernels whose answers are known."""

import pytest

from tests.host_cann.fixture import needs_build

pytestmark = needs_build


@pytest.fixture(scope="module")
def facts():
    from tests.host_cann import facts

    return facts


def test_rows_of_a_strided_tile(facts):
    from tests.host_cann.sample_kernels import copy_rows

    found = facts.of(
        copy_rows, {"x_ptr": "*fp16", "y_ptr": "*fp16", "rows": "i32", "stride": "i32"}, {"ROWS": 8, "WIDTH": 96}
    )
    assert found.transfers == (
        facts.Transfer("load", argument=0, bytes=8 * 96 * 2, row_bytes=96 * 2, loop_depth=1),
        facts.Transfer("store", argument=1, bytes=8 * 96 * 2, row_bytes=96 * 2, loop_depth=1),
    )
    assert found.scalar_accesses == ()
    assert found.vector_operations == {}
    assert found.ub_bytes == 2 * 8 * 96 * 2 + 2048, "one buffer, held twice for the pipeline, and the reserve"
    assert found.bytes_moved("load", 0) == 1536


def test_multi_buffering_can_be_left_out(facts):
    from tests.host_cann.sample_kernels import copy_rows

    found = facts.of(
        copy_rows,
        {"x_ptr": "*fp16", "y_ptr": "*fp16", "rows": "i32", "stride": "i32"},
        {"ROWS": 8, "WIDTH": 96},
        multi_buffer=False,
    )
    assert found.ub_bytes == 8 * 96 * 2 + 2048


def test_vector_operations_are_counted(facts):
    from tests.host_cann.sample_kernels import multiply_add

    found = facts.of(multiply_add, {"x_ptr": "*fp32", "y_ptr": "*fp32", "z_ptr": "*fp32"}, {"BLOCK": 256})
    assert found.vector_operations == {"arith.mulf": 1, "arith.addf": 1}
    assert [(t.direction, t.argument, t.bytes) for t in found.transfers] == [
        ("load", 0, 1024),
        ("load", 1, 1024),
        ("load", 2, 1024),
        ("store", 2, 1024),
    ]


def test_a_masked_transfer_has_no_known_size(facts):
    from tests.host_cann.sample_kernels import add_one

    found = facts.of(add_one, {"x_ptr": "*fp32", "n": "i32"}, {"BLOCK": 128})
    assert [t.bytes for t in found.transfers] == [None, None]


def test_a_scalar_read_of_global_memory_is_seen(facts):
    from tests.host_cann.sample_kernels import indirect

    found = facts.of(indirect, {"x_ptr": "*fp32", "y_ptr": "*fp32", "index_ptr": "*i32"}, {"BLOCK": 64})
    assert [(s.operation, s.where) for s in found.scalar_accesses] == [("memref.load", "global")]


def test_a_launch_has_the_grid_that_the_runtime_saw_and_the_facts_of_what_it_ran(npu, facts):
    from tests.host_cann.sample_kernels import add_one, copy_rows

    x, y = npu.zeros(64, 96).half().npu(), npu.zeros(64, 96).half().npu()
    flat = npu.zeros(1000).npu()

    def work():
        copy_rows[(5,)](x, y, 64, 96, ROWS=8, WIDTH=96)
        add_one[(2, 4)](flat, 1000, BLOCK=128)

    copied, added = facts.launched(npu, work)
    assert copied.grid == (5, 1, 1)
    assert added.grid == (2, 4, 1)
    assert [t.bytes for t in copied.transfers] == [8 * 96 * 2] * 2
    assert added.vector_operations["arith.addf"] == 1


def test_what_ran_before_is_not_among_the_launches(npu, facts):
    from tests.host_cann.sample_kernels import add_one

    x = npu.zeros(1000).npu()
    add_one[(8,)](x, 1000, BLOCK=128)  # still queued when the watch begins
    assert facts.launched(npu, lambda: None) == []
    assert [found.grid for found in facts.launched(npu, lambda: add_one[(3,)](x, 300, BLOCK=128))] == [(3, 1, 1)]
