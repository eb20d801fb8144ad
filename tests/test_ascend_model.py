"""The model of time on Ascend, on kernels with known answers; and that it refuses what it does not understand."""
# ruff: noqa: E402  (nothing of Triton-Ascend can be imported where it is not)

import dataclasses
import itertools
import json
import os

import pytest

from tests.conftest import ROOT

triton = pytest.importorskip("triton")
pytest.importorskip("triton.backends.ascend", reason="needs triton-ascend's front end")
if os.environ["TRITON_INTERPRET"] == "1":  # as tests/conftest.py has it, unless told otherwise
    pytest.skip("Triton interprets here: TRITON_INTERPRET=0 pytest tests/test_ascend_model.py", allow_module_level=True)

import triton.language as tl
from scripts.model_ascend.memory import View
from scripts.model_ascend.rates import CHIPS
from scripts.model_ascend.regions import NotUnderstood

from scripts.model_ascend import __main__ as command
from scripts.model_ascend import kernels, launch, program, published
from scripts.model_ascend.kernels import Case
from scripts.model_ascend.launch import Launch
from tests.host_cann import chips, front_end, sample_kernels

CHIP = chips.CHIPS["910B3"]
RATES = CHIPS["910B3"]
FP16 = {"x_ptr": "*fp16", "y_ptr": "*fp16", "rows": "i32", "stride": "i32"}


@triton.jit
def copy_masked_rows(x_ptr, y_ptr, rows, stride, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """As ``sample_kernels.copy_rows``, but for a mask that could be false."""
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        at = row * stride + tl.arange(0, WIDTH)[None, :]
        tl.store(y_ptr + at, tl.load(x_ptr + at, mask=row < rows, other=0), mask=row < rows)


@triton.jit
def gather_rows(x_ptr, y_ptr, index_ptr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.load(index_ptr + tl.arange(0, ROWS))
    lane = tl.arange(0, WIDTH)[None, :]
    tl.store(y_ptr + tl.arange(0, ROWS)[:, None] * WIDTH + lane, tl.load(x_ptr + row[:, None] * WIDTH + lane))


def copying(rows, programs=1, kernel=sample_kernels.copy_rows, tile=8, width=256):
    linalg = front_end.linalg(kernel, FP16, {"ROWS": tile, "WIDTH": width})
    assert rows % (tile * programs) == 0, "each program has the same work"
    return Launch(linalg, (rows, width), {0: programs})


def release(version):
    try:
        return kernels.release(version)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("tiles", [0, 1, 5, 6, 7, 100])
def test_bytes_and_trips_of_a_loop(tiles):
    walked = launch.walk(copying(8 * tiles), 0, RATES)
    assert walked.counts["transfers"] == 2 * tiles
    assert walked.counts["bytes in"] == walked.counts["bytes out"] == tiles * 8 * 256 * 2


@pytest.mark.parametrize("tiles", [7, 40, 333])
def test_a_long_loop_takes_what_walking_all_of_it_takes(monkeypatch, tiles):
    short = launch.walk(copying(8 * tiles), 0, RATES)
    monkeypatch.setattr(program, "WALKED", 10**9)
    full = launch.walk(copying(8 * tiles), 0, RATES)
    assert short.end == pytest.approx(full.end, rel=0.01)
    assert short.counts == pytest.approx(full.counts)


def test_two_buffers_let_a_copys_transfers_overlap_and_one_does_not():
    def cycles_a_tile(rates):
        few, many = (launch.walk(copying(8 * tiles), 0, rates).end for tiles in (100, 200))
        return (many - few) / 100

    moved = 8 * 256 * 2
    into, out = (RATES.transfer_cycles + moved / rate for rate in (RATES.load_rate, RATES.store_rate))
    quick = dataclasses.replace(RATES, latency_cycles=0.0)
    assert cycles_a_tile(quick) == pytest.approx(into), "the slower of the two queues"
    slow = dataclasses.replace(RATES, latency_cycles=5000.0)
    assert cycles_a_tile(slow) == pytest.approx((into + out + 2 * 5000) / 2), "two tiles under way"


def test_gathered_rows_are_under_way_together():
    def cycles(rows):
        types = {"x_ptr": "*fp16", "y_ptr": "*fp16", "index_ptr": "*i32"}
        linalg = front_end.linalg(gather_rows, types, {"ROWS": rows, "WIDTH": 128})
        walked = launch.walk(Launch(linalg, (), {0: 1}), 0, RATES)
        assert walked.counts["transfers"] == rows + 2
        assert walked.counts["traffic"] == rows * 512 + rows * 256 + max(512, rows * 4), (
            "whole lines for scattered rows"
        )
        return walked.end

    assert cycles(32) - cycles(16) < 2 * RATES.latency_cycles, "not sixteen of them"
    assert cycles(16) > 3 * RATES.latency_cycles, "indices in, rows in, rows out"


def test_a_load_that_could_need_a_fill_waits_for_the_vector_queue():
    """Of upstream's 64 rows of q, 8 heads fill 8: its loads wait; with 64 heads there is nothing to fill."""
    text = release("0.23.0")

    def parts(heads):
        started = kernels.theirs(Case("", heads, heads, 128, 128, True, strided=False), 4000, CHIP, text)
        found = launch.time(started, RATES)
        return found.work_us, found.busy["vector"]

    (masked, masked_vector), (full, full_vector) = parts(32), parts(64)
    assert full == pytest.approx(full_vector, rel=0.2), "hidden behind the vector operations"
    assert masked > 1.5 * masked_vector


def test_the_masked_copy_moves_its_last_rows_only():
    linalg = front_end.linalg(copy_masked_rows, FP16, {"ROWS": 8, "WIDTH": 256})
    walked = launch.walk(Launch(linalg, (83, 256), {0: 1}), 0, RATES)
    assert walked.counts["bytes in"] == walked.counts["bytes out"] == 83 * 256 * 2


def test_more_rows_take_longer_and_more_programs_do_not():
    times = [launch.time(copying(8 * tiles), RATES).us for tiles in (1, 2, 3, 10, 100, 1000)]
    assert times == sorted(set(times))
    work = [launch.time(copying(8 * 1600, programs), RATES).work_us for programs in (1, 2, 20, 40)]
    assert work == sorted(set(work), reverse=True)


def test_hbm_is_shared_by_all_cores():
    wide = copying(64 * 4000, 40, tile=64)
    assert launch.time(wide, RATES).hbm_us == pytest.approx(2 * 64 * 4000 * 512 / 1.6e6)
    slow = dataclasses.replace(RATES, hbm_bytes_per_us=1e4)
    found = launch.time(wide, slow)
    assert found.us == pytest.approx(found.start_us + found.hbm_us)


@pytest.mark.parametrize(
    ("sizes", "strides", "bursts", "traffic"),
    [
        ((8, 256), (512, 2), (1, 4096, 0), 4096),
        ((8, 64), (256, 2), (8, 128, 256), 8 * 256),  # half of each head: the other half's lines come along
        ((8, 64), (4096, 2), (8, 128, 4096), 8 * 512),  # far apart: whole lines
        ((4, 8, 128), (8192, 256, 2), (4, 2048, 8192), 4 * 2048),
        ((1, 1, 8), (64, 64, 2), (1, 16, 0), 512),
    ],
)
def test_bursts_and_the_lines_they_drag_along(sizes, strides, bursts, traffic):
    view = View(0, 0, sizes, strides, 2)
    assert view.bursts() == bursts
    assert view.traffic(RATES) == traffic


def test_short_and_unaligned_transfers_are_less_efficient():
    def rate(view):
        return view.bytes / view.cycles(RATES.load_rate, RATES)

    whole = [View(0, 0, (size,), (1,), 1) for size in (512, 4096, 16384, 65536)]
    assert [rate(view) for view in whole] == sorted(rate(view) for view in whole)
    assert rate(whole[2]) == pytest.approx(0.9 * RATES.load_rate, rel=0.01)
    crooked = View(0, 32, (65536,), (1,), 1)
    assert rate(crooked) == pytest.approx(0.7 * rate(whole[3]), rel=0.02)


@pytest.mark.parametrize("num_tokens", [5000, 8192])
@pytest.mark.parametrize("case", command.CASES, ids=[case.name for case in command.CASES])
def test_our_kernel_moves_the_least_bytes_there_are(case, num_tokens):
    """But for rows of the cache that tails gather for tokens that are not there: at most a tile's for each program."""
    started = kernels.ours(case, num_tokens, CHIP)
    found = launch.time(started, RATES)
    more = found.bytes_in + found.bytes_out - case.least_bytes(num_tokens)
    assert more % (case.rotary_dim * 2) == 0
    assert 0 <= more <= 64 * started.programs * case.rotary_dim * 2
    assert more < 0.02 * case.least_bytes(num_tokens)


@pytest.mark.parametrize("num_tokens", [1, 7, 39, 67, 129, 5001])
def test_the_programs_said_to_be_alike_do_all_the_work(num_tokens):
    """Every program walked, against the few that stand for them."""
    case = command.CASES[0]
    launches = [kernels.ours(case, num_tokens, CHIP), kernels.theirs(case, num_tokens, CHIP, release("0.23.0"))]
    for started in launches:
        every = dataclasses.replace(started, alike=dict.fromkeys(range(started.programs), 1))
        few, all_of_them = launch.time(started, RATES), launch.time(every, RATES)
        assert (few.bytes_in, few.bytes_out) == (all_of_them.bytes_in, all_of_them.bytes_out)
        assert few.us == pytest.approx(all_of_them.us, rel=0.01)


@pytest.mark.parametrize("case", command.CASES, ids=[case.name for case in command.CASES])
def test_nothing_is_faster_than_its_start_and_its_bytes(case):
    text = release("0.23.0")
    for num_tokens in (1, 64, 512, 8192):
        for started in (kernels.ours(case, num_tokens, CHIP), kernels.theirs(case, num_tokens, CHIP, text)):
            found = launch.time(started, RATES)
            assert found.us >= found.start_us + (found.bytes_in + found.bytes_out) / RATES.hbm_bytes_per_us
            assert found.us >= 2.3


def test_one_kernel_takes_longer_for_more_tokens():
    text, case = release("0.23.0"), command.CASES[0]
    times = [launch.time(kernels.theirs(case, num_tokens, CHIP, text), RATES).us for num_tokens in command.TOKENS]
    assert all(earlier <= later for earlier, later in itertools.pairwise(times))


LINE = "%1 = arith.addf %0, %0 : tensor<8x64xf32>"
TYPE = "memref<8x64xf32, strided<[64, 1]>>"
KERNEL = f"""module {{{{
  func.func @k(%arg0: memref<?xi8>, %arg1: memref<?xi8>, %arg2: memref<?xf32>, GRID) {{{{
    %c0 = arith.constant 0 : index
    %view = memref.reinterpret_cast %arg2 to offset: [0], sizes: [8, 64], strides: [64, 1] : memref<?xf32> to {TYPE}
    %alloc = memref.alloc() : memref<8x64xf32>
    memref.copy %view, %alloc : {TYPE} to memref<8x64xf32>
    %0 = bufferization.to_tensor %alloc restrict writable : memref<8x64xf32>
    {{}}
    return
  }}}}
}}}}
""".replace("GRID", ", ".join(f"%arg{place}: i32" for place in range(3, 9)))


def test_the_kernel_that_is_spoilt_below_is_understood():
    walked = launch.walk(Launch(KERNEL.format(LINE), (), {0: 1}), 0, RATES)
    assert walked.counts["bytes in"] == 8 * 64 * 4
    assert walked.counts["vector"] == RATES.vector_cycles + 8


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("%1 = tensor.extract_slice %0[0, 1] [8, 32] [1, 2] : tensor<8x64xf32> to tensor<8x32xf32>", 4 * 8),
        ("%1 = tensor.insert_slice %0 into %0[0, 64] [8, 64] [1, 1] : tensor<8x64xf32> into tensor<8x128xf32>", 8),
        ("%1 = linalg.broadcast ins(%0 : tensor<8x64xf32>) outs(%0 : tensor<4x8x64xf32>) dimensions = [0]", 32),
        ("%1 = arith.truncf %0 : tensor<8x64xf32> to tensor<8x64xbf16>", 8),
    ],
)
def test_passes_of_a_vector_operation_over_its_wider_side(line, passes):
    walked = launch.walk(Launch(KERNEL.format(line), (), {0: 1}), 0, RATES)
    assert walked.counts["vector"] == RATES.vector_cycles + passes


def test_taking_whole_blocks_out_of_a_tile_is_only_looking():
    line = "%1 = tensor.extract_slice %0[0, 32] [8, 32] [1, 1] : tensor<8x64xf32> to tensor<8x32xf32>"
    assert launch.walk(Launch(KERNEL.format(line), (), {0: 1}), 0, RATES).counts["vector"] == 0


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("%1 = math.exp %0 : tensor<8x64xf32>", "math.exp"),
        ("%1 = arith.cmpi slt, %0, %0 : tensor<8x64xi32>", "arith.cmpi"),
        ("%1 = arith.addi %0, %0 : tensor<8x64xi64>", "arith.addi"),
        ("%1 = arith.shli %arg3, %arg3 : i32", "arith.shli"),
        ("%1 = memref.load %view[%c0, %c0] : memref<8x64xf32>\n    scf.for %i = %c0 to %1 step %c0 {\n    }", "%1"),
        ("scf.while (%i = %c0) : (index) -> index {\n    }", "scf.while"),
        ("%1 = tensor.insert_slice %0 into %0[0, 0] [8, 32] [1, 2] : tensor<8x32xf32> into tensor<8x64xf32>", "slice"),
        ("%1:2 = arith.addi %arg3, %arg3 : i32", "arith.addi"),
        ("memref.atomic_rmw addf %0, %view : memref<8x64xf32>", "memref.atomic_rmw"),
    ],
)  # fmt: skip
def test_what_it_does_not_understand_it_names(line, named):
    with pytest.raises(NotUnderstood, match=named):
        launch.walk(Launch(KERNEL.format(line), (), {0: 1}), 0, RATES)


def test_a_grid_beyond_the_cores_is_not_understood():
    with pytest.raises(NotUnderstood, match="41 programs"):
        launch.walk(copying(8 * 41, 41), 0, RATES)


def test_the_results_that_are_kept_are_the_models():
    """Its rates and its calibration; so a change of either cannot go unseen."""
    kept = json.loads((ROOT / "scripts" / "model_ascend" / "results.json").read_text())
    assert kept["rates"] == vars(RATES)
    release("0.13.0")
    assert kept["calibration"] == published.table()
    errors = [entry["error_percent"] for entry in kept["calibration"] if entry["fitted"]]
    assert f"{min(errors)}% to +{max(errors)}%" in (ROOT / "README.md").read_text()
