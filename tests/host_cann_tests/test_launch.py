"""Launching through triton-ascend's own launcher, in both of its modes, and what happens when a kernel misbehaves."""

import pytest

from tests.host_cann import chips, fixture
from tests.host_cann.fixture import needs_build

pytestmark = needs_build
QUEUE = pytest.mark.parametrize("queue", ["true", "false"])


@QUEUE
def test_a_launch_does_not_overtake_the_work_before_it(queue):
    done = fixture.run_script(
        """
        from tests.host_cann.sample_kernels import add_one
        x = torch.zeros(1000).npu()
        for round in range(50):
            x.copy_(torch.full((1000,), float(round)), non_blocking=True)   # queued, not waited for
            add_one[(8,)](x, 1000, BLOCK=128)
            add_one[(8,)](x, 1000, BLOCK=128)
            y = torch.empty_like(x)
            y.copy_(x)                                                       # queued behind the launches
            x.copy_(torch.zeros(1000), non_blocking=True)
            assert y.cpu().unique().tolist() == [round + 2.0], (round, y.cpu().unique())
        print("in order")
        """,
        TRITON_ENABLE_TASKQUEUE=queue,
    )
    assert "in order" in done.stdout, done.stderr


@QUEUE
def test_discarded_launches_change_nothing_and_later_ones_run(queue):
    done = fixture.run_script(
        """
        from tests.host_cann import discard
        from tests.host_cann.sample_kernels import add_one
        x = torch.zeros(1000).npu()
        add_one[(8,)](x, 1000, BLOCK=128)
        with discard.launches(torch):
            for _ in range(50):
                add_one[(8,)](x, 1000, BLOCK=128)
        print(x.cpu().unique().tolist())
        add_one[(8,)](x, 1000, BLOCK=128)
        print(x.cpu().unique().tolist())
        """,
        TRITON_ENABLE_TASKQUEUE=queue,
    )
    assert done.stdout.split() == ["[1.0]", "[2.0]"], done.stdout + done.stderr


@QUEUE
@pytest.mark.parametrize("grid", [0, 65536])
def test_a_grid_that_the_device_refuses_is_an_exception(grid, queue):
    """Through the compiled kernel: Triton-Ascend's own ``kernel[grid]`` already refuses the larger one."""
    done = fixture.run_script(
        f"""
        from tests.host_cann.sample_kernels import add_one
        x = torch.zeros(1000).npu()
        compiled = add_one[(8,)](x, 1000, BLOCK=128)
        try:
            compiled[({grid}, 1, 1)](x, 1000)
            torch.npu.synchronize()
        except RuntimeError as error:
            print("raised", error)
        """,
        TRITON_ENABLE_TASKQUEUE=queue,
    )
    assert f"kernel add_one: a grid of {grid} blocks; 1 to 65535 are possible" in done.stdout, done.stderr


def test_the_largest_grid_runs_every_block(npu):
    from tests.host_cann.sample_kernels import add_one

    x = npu.zeros(65535 * 8).npu()
    add_one[(65535,)](x, 65535 * 8, BLOCK=8)
    assert x.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("1 << 24", "past an allocation"),  # beyond the block that PyTorch's allocator took the tensor from
        ("2**31 - 16", "past an allocation"),
        ("-(1 << 20)", "before an allocation"),
    ],
)
def test_a_kernel_that_leaves_its_allocation_is_an_exception_that_says_where(place, said):
    done = fixture.run_script(
        f"""
        from tests.host_cann.sample_kernels import write_at
        x = torch.zeros(1000).npu()
        write_at[(1,)](x, {place}, BLOCK=16)
        try:
            torch.npu.synchronize()
        except RuntimeError as error:
            print("raised", error)
        """
    )
    assert "kernel write_at, block (0, 0, 0), touched" in done.stdout, done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("1024", "64 bytes past an allocation of 4032 bytes"),  # 1,000 floats, and torch-npu adds 32 bytes to each
        ("-16", "64 bytes before an allocation of 4032 bytes"),
        ("1008", "a write 0 bytes past an allocation of 4032 bytes"),  # within the last 512 bytes, which share a page
    ],
)
def test_without_caching_a_tensor_ends_where_it_ends(place, said):
    """torch-npu's own setting: each tensor is an allocation of its own, not a piece of a block of 2 MiB."""
    done = fixture.run_script(
        f"""
        from tests.host_cann.sample_kernels import write_at
        x, neighbour = torch.zeros(1000).npu(), torch.zeros(1000).npu()
        write_at[(1,)](x, {place}, BLOCK=16)
        try:
            torch.npu.synchronize()
        except RuntimeError as error:
            print("raised", error)
        """,
        PYTORCH_NO_NPU_MEMORY_CACHING="1",
    )
    assert "raised" in done.stdout, done.stderr
    assert said in done.stdout


def test_a_host_tensor_is_no_kernel_argument():
    done = fixture.run_script(
        """
        from tests.host_cann.sample_kernels import add_one
        add_one[(8,)](torch.zeros(1000), 1000, BLOCK=128)
        try:
            torch.npu.synchronize()
        except RuntimeError as error:
            print("raised", error)
        """
    )
    assert "not device memory" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["910B3", "A3", "310P"])  # the whole table is the runtime's, and tested there
def test_the_chip_is_a_setting_that_torch_and_triton_see(name):
    chip = chips.CHIPS[name]
    done = fixture.run_script(
        """
        import triton
        facts = torch.npu.get_device_properties(0)
        print(torch.npu.get_device_name(0), facts.cube_core_num, facts.vector_core_num)
        print(triton.runtime.driver.active.get_current_target().arch)
        """,
        chip=name,
    )
    assert f"{chip.soc_name} {chip.cube_cores} {chip.vector_cores}" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == chip.soc_name


def test_torchair_loads():
    done = fixture.run_script(
        """
        import sys
        from torch_npu.dynamo import torchair
        torchair.get_npu_backend(compiler_config=torchair.CompilerConfig())
        print("torchair.core._torchair" in sys.modules)
        """
    )
    assert done.stdout.endswith("True\n"), done.stderr
