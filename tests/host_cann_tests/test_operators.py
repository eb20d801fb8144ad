"""PyTorch on ``npu:0``: right where it computes, an exception naming the operator where it does not."""

import pytest

from tests.host_cann.fixture import needs_build

pytestmark = needs_build


def test_arithmetic_on_views_matches_the_cpu(npu):
    host = npu.randn(6, 10)
    device = host.npu()[:, 2:8]
    view = host[:, 2:8]
    a, b = device.chunk(2, -1)
    c, d = view.chunk(2, -1)
    for got, want in [
        (a * b - 2, c * d - 2),
        (npu.cat((-b, a), -1), npu.cat((-d, c), -1)),
        (npu.stack((a, b), -1).flatten(-2), npu.stack((c, d), -1).flatten(-2)),
        (device.bfloat16().float(), view.bfloat16().float()),
        (device.contiguous(), view),
    ]:
        assert got.device.type == "npu"
        assert npu.equal(got.cpu(), want)


def test_rows_by_index(npu):
    cache, positions = npu.randn(9, 4), npu.tensor([[3, 8], [0, 1]])
    assert npu.equal(cache.npu().index_select(0, positions.flatten().npu()).cpu(), cache[positions.flatten()])
    assert npu.equal(cache.npu()[positions.npu()].cpu(), cache[positions])


def test_in_place_operators_write_through_a_view_and_return_it(npu):
    whole = npu.zeros(4, 6).npu()
    part = whole[:, 1:3]
    assert part.add_(2) is part
    part.mul_(3)
    whole[:, 5] = 1
    whole[3].fill_(7)
    want = npu.zeros(4, 6)
    want[:, 1:3], want[:, 5], want[3] = 6, 1, 7
    assert npu.equal(whole.cpu(), want)


@pytest.mark.parametrize("make", ["zeros", "ones", "full", "arange", "empty_like"])
def test_fresh_tensors_are_on_the_device(npu, make):
    result = {
        "zeros": lambda: npu.zeros(3, device="npu"),
        "ones": lambda: npu.ones(3, device="npu"),
        "full": lambda: npu.full((3,), 2.0, device="npu"),
        "arange": lambda: npu.arange(3, device="npu"),
        "empty_like": lambda: npu.empty_like(npu.zeros(3).npu()),
    }[make]()
    assert result.device == npu.device("npu:0")


def test_lists_of_tensors_are_added_and_sums_go_to_given_tensors(npu):
    host = [npu.randn(3), npu.randn(2, 2)]
    device = [x.npu() for x in host]
    for got, x in zip(npu._foreach_add(device, device), host, strict=True):
        assert got.device.type == "npu"
        assert npu.equal(got.cpu(), 2 * x)
    out = npu.zeros(3).npu()
    assert npu.cumsum(device[0], 0, out=out) is out
    assert npu.equal(out.cpu(), host[0].cumsum(0))


def test_comparisons_and_copies_between_devices(npu):
    x = npu.randn(5, 3)
    y = x.npu()
    assert npu.equal(y, y.clone())
    assert npu.allclose(y, y + 0)
    assert bool((y == y.clone()).all())
    back = npu.empty(3, 5).t()
    back.copy_(y)
    assert npu.equal(back, x)
    y.t().copy_(npu.ones(3, 5))
    assert npu.equal(y.cpu(), npu.ones(5, 3))


def test_an_operator_sees_the_launches_before_it(npu):
    from tests.host_cann.sample_kernels import add_one

    x = npu.zeros(1000, device="npu")
    for expected in (1, 2, 3):
        add_one[(8,)](x, 1000, BLOCK=128)
        assert (x + 0).unique().tolist() == [expected]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda torch, x: torch.tanh(x), "aten::tanh"),
        (lambda torch, x: torch.softmax(x, -1), "aten::_softmax"),
        (lambda torch, x: torch.ops.npu.npu_geglu(x), "npu::npu_geglu"),
    ],
)
def test_what_is_not_implemented_raises_naming_itself(npu, call, name):
    with pytest.raises(NotImplementedError, match=f"host CANN does not implement {name}"):
        call(npu, npu.ones(2, 4).npu())


def test_a_result_in_memory_that_a_queued_kernel_still_reads_comes_after_it(npu, monkeypatch):
    """As if another thread ran between: after the operator has waited for the device, a kernel starts and the memory
    that it reads is freed. CANN's operators would be queued behind that kernel, but here the host writes at once."""
    from tests.host_cann.sample_kernels import copy_rows

    values, copied, source = npu.randn(8, 64), npu.zeros(8, 64).npu(), npu.zeros(8, 64).npu()
    read = [values.npu()]
    address = read[0].data_ptr()
    wait = npu.npu.synchronize

    def wait_and_be_overtaken():
        wait()
        if read:
            copy_rows[(1,)](read[0], copied, 8, 64, ROWS=8, WIDTH=64)
            read.clear()

    copy_rows[(1,)](source, copied, 8, 64, ROWS=8, WIDTH=64)  # compiles
    monkeypatch.setattr(npu.npu, "synchronize", wait_and_be_overtaken)
    result = source.clone()
    assert result.data_ptr() == address, "or nothing was shown"
    assert npu.equal(copied.cpu(), values)
    assert npu.equal(result.cpu(), npu.zeros(8, 64))
