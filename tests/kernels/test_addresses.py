"""Which addresses the kernel reads and writes: positions beyond the cache, and offsets past 2**31 elements."""

import mmap
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the kernel's tests need torch")
pytest.importorskip("triton", reason="the kernel's tests need triton")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from rope_patch.kernels import padded  # noqa: E402
from rope_patch.kernels.launch import INTERPRETED, device_facts  # noqa: E402
from rope_patch.kernels.planning import make_plan  # noqa: E402
from rope_patch.operators.arguments import Unsupported, parse  # noqa: E402
from rope_patch.operators.rotation import KERNELS, Rotation  # noqa: E402
from tests.rotations import DEVICE, assert_rotated, launch, rotation  # noqa: E402

on_the_host = pytest.mark.skipif(not INTERPRETED, reason="guards host memory; needs TRITON_INTERPRET=1")
BEYOND = [-1, -(2**31), -(2**63), 97, 2**31 - 1, 2**31, 2**32 + 200, 2**63 - 1]


def sparse(elements: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor over address space that takes memory only where it is touched."""
    size = elements * dtype.itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    return torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=dtype)


@pytest.mark.parametrize("position", BEYOND)
@pytest.mark.parametrize("num_tokens", [1, 70])
def test_a_position_beyond_the_cache_spoils_its_own_token_only(position: int, num_tokens: int) -> None:
    case = rotation(num_tokens, 2, 1, 16, 16)
    if num_tokens > 1:
        case.positions[num_tokens // 2] = position
    else:
        case.positions[:] = position
    before, out = case.query.clone(), torch.full_like(case.query, float("nan"))
    launch(case.call(), out, torch.empty_like(case.key, memory_format=torch.contiguous_format))
    spoiled = torch.arange(num_tokens) == num_tokens // 2
    case.positions[spoiled] = 0
    for tensor in (before, out):
        tensor[spoiled] = 0
    assert_rotated(case, before, out)


@on_the_host
@pytest.mark.parametrize("position", BEYOND)
def test_a_position_beyond_the_cache_reads_nothing_outside_it(position: int) -> None:
    """The cache is surrounded by NaN. The token's value may be anything finite, which shows it came from the cache."""
    case = rotation(5, 2, 1, 16, 16)
    surrounded = torch.full((97 + 2 * 64, 16), float("nan"), dtype=torch.bfloat16)
    surrounded[64:-64] = case.cache
    case.cache = surrounded[64:-64]
    case.positions[3] = position
    out = torch.empty_like(case.query, memory_format=torch.contiguous_format)
    launch(case.call(), out, torch.empty_like(case.key, memory_format=torch.contiguous_format))
    assert out.isfinite().all()


@on_the_host
def test_tokens_more_than_two_to_the_31_elements_apart() -> None:
    case = rotation(4, 2, 1, 16, 16)
    stride = 2**30 + 48
    storage = sparse(3 * stride + 64, torch.bfloat16)
    far_query, far_key = (storage.as_strided((4, width), (stride, 1), at) for width, at in ((32, 0), (16, 40)))
    far_query.copy_(case.query)
    far_key.copy_(case.key)
    before = far_query.clone(), far_key.clone()
    case.query, case.key = far_query, far_key
    launch(case.call(), None, None)  # in place, far apart
    assert_rotated(case, before[0], far_query)
    assert_rotated(case, before[1], far_key)


def test_a_cache_whose_offsets_need_64_bits_is_refused() -> None:
    """4 GiB of bf16: no model has such a cache, and it would need another kernel."""
    case = rotation(6, 2, 1, 32, 32)
    arguments = case.positions, case.query, case.key
    most = sparse(2**31, torch.bfloat16).to(DEVICE) if INTERPRETED else None
    if most is None:
        pytest.skip("takes 4 GiB where memory is not sparse")
    for rows, refused in ((2**26 - 1, False), (2**26, True)):
        found = parse(*arguments, most[: rows * 32].view(rows, 32), Rotation(32, 32, True))
        assert isinstance(found, Unsupported) == refused
    assert "ends within 2147483647 elements" in str(found.raised())


@triton.jit
def one_tile(x, y, cache, positions, token0, stride, HALF: tl.constexpr, LANES: tl.constexpr, REST: tl.constexpr):
    position = tl.load(positions + token0)
    for head in range(2):
        padded._turn_block(
            x, y, cache, position, None, None, head, token0, 1, stride, 1024, 97, 2 * HALF,
            2, 1, 1024, HALF, True, LANES, REST, 1, 1, "", 0, 0,
        )  # fmt: skip


@on_the_host
def test_fresh_outputs_past_two_to_the_31_elements() -> None:
    """More than 2**20 tokens of 2,048 lanes take too long, so only the last tile is rotated, at its true addresses."""
    case = rotation(3, 2, 0, 1024, 4)
    plan = make_plan(KERNELS, replace(case.call().shape, fresh=True), 1, device_facts(torch.device(DEVICE)))
    token0, width = 2**20 + 1, 2048
    source = sparse((token0 + 1) * width, torch.bfloat16).view(-1, width)
    out = sparse((token0 + 1) * width, torch.bfloat16).view(-1, width)
    source[token0] = case.query[0]

    positions = sparse(token0 + 1, torch.int64)
    positions[token0] = case.positions[0]
    one_tile[(1,)](
        source, out, case.cache, positions, token0, width, HALF=2, LANES=plan.half_lanes, REST=plan.rest_lanes
    )  # fmt: skip
    case.positions = case.positions[:1]
    assert_rotated(case, case.query[:1], out[token0:])
    assert not out[0].any()
