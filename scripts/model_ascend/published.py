"""Published times, and what the clock says of the same work: the calibration, and its error.

python -m scripts.model_ascend --calibration
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from scripts.model_ascend import cases, handmade, kernels, launch, programs, published_kernels, samples
from scripts.model_ascend.cases import Case
from scripts.model_ascend.costs import CHIPS, Costs
from scripts.model_ascend.programs import Executed
from tests.host_cann import chips

Timed = Callable[[Costs], float | None]  # microseconds; None if the program cannot be executed here


class Published(NamedTuple):
    """A published time; ``fitted`` names the cost that was fitted to it, if one was, else it only checks them."""

    what: str
    source: str
    us: float
    chip: str
    modelled: Timed
    fitted: str = ""
    note: str = ""


# Without a shape, a chip, or a program to execute: nothing to compare with.
NOT_COMPARABLE = (
    "vllm-ascend #5918, the seed: 57.1 us before, 9 us after; neither shape nor chip given",
    "vllm-ascend #4413: split, rotation and concatenation 35 us before, 12 us after; neither shape nor chip given",
    "vllm-ascend #5827: time of a whole token",
    "FlagGems-vllm #790: kv_rmsnorm_rope_cache, 67.7 us on a 910B1; scatters into a cache, and its kernel is not known",
    "xLLM #1315: norm and MRoPE, 4.3 us; no shape given",
    "torch_npu: about 10 us for small operators; not Triton kernels",
)


def rows() -> list[Published]:
    """All of the facts that can be compared, the vendor's samples first."""
    mojo, four = "mojo_opset #368", "with transposes of q and k, there and back, at HBM's peak: a lower bound"
    tilelang = "not Triton's, but our kernel's program for the same rotation"
    liger = "the seed's kernel for its text; shapes inferred; time seen from the host, with transposes: a lower bound"
    return [
        *_samples(),
        Published("smallest Triton kernel, 1 core", "triton-ascend", 2.3, "910B3", _smallest(1), "start_us"),
        Published("smallest Triton kernel, 40 cores", "triton-ascend", 3.1, "910B3", _smallest(40),
                  "start_us_per_core"),
        Published("split, norm, rotation, 8192 tokens", "sgl-kernel-npu", 289.0, "910B3", _token_by_token(),
                  "issue_cycles", "16+4+4 heads of 128 and one program a core, inferred from its text"),
        Published("rotation 2x8x1x32", mojo, 3.06, "910B3", _tiles(2, 8, 1, 32), "", "one token: no transposes"),
        Published("rotation 2x16x4096x128", mojo, 320.0, "910B3", _tiles(2, 16, 4096, 128), "", four),
        Published("rotation 1x32x4096x128", mojo, 320.0, "910B3", _tiles(1, 32, 4096, 128), "", four),
        Published("rotation 2x16x512x128", mojo, 76.9, "910B3", _tiles(2, 16, 512, 128), "", four),
        Published("rotation 1x32x1024x32", mojo, 67.6, "910B3", _tiles(1, 32, 1024, 32), "", four),
        Published("rotation 1x4x32x64", mojo, 28.0, "910B3", _tiles(1, 4, 32, 64), "", four),
        Published("rotation 128x64", "tilelang #145", 3.54, "910B3", _ours(128, 1, 64), "", tilelang),
        Published("rotation 2x128x8x64", "tilelang #145", 4.00, "910B3", _ours(256, 8, 64), "", tilelang),
        Published("rotation 8192x128", "tilelang #145", 8.64, "910B3", _ours(8192, 1, 128), "", tilelang),
        Published("rotation of 2048 tokens, smallest shape", "Liger", 190.0, "910B4", _seeds(16), "", liger),
        Published("rotation of 2048 tokens, largest shape", "Liger", 570.0, "910B4", _seeds(256), "", liger),
    ]  # fmt: skip


def _samples() -> list[Published]:
    """Parts of their loops, long enough not to feel the ends; of a core without the start."""

    def row(
        what: str, us: float, program: Callable[[], handmade.Program], cores: int, of: float, fitted: str = ""
    ) -> Published:
        @functools.cache
        def made() -> tuple[tuple[np.ndarray, int]]:
            return ((program().events(), cores),)

        def modelled(costs: Costs) -> float:
            # Ascend C's own arithmetic for an instruction is a few operations (two cycles each: CA).
            found = launch.time(made(), replace(costs, issue_cycles=2.0), handmade.name_of)
            return math.hypot(found.work_us, found.memory_us) * of

        return Published(what, "asc-devkit", us, "910B1", modelled, fitted)

    add, copy = "add_high_performance, case", "data_copy, case"
    return [
        row(f"{add} 1, one core", 6909.14, lambda: samples.add(4096, 512), 1, 32, "load_rate"),
        row(f"{copy} 1: 128 B each", 548.161, lambda: samples.copy(1, 64, 12288, 3072), 48, 16, "load_cycles"),
        row(f"{copy} 2: 64 x 128 B", 220.772, lambda: samples.copy(64, 64, 12288, 768), 48, 1, "load_burst_cycles"),
        row(f"{copy} 3: 64 x 2 KiB", 202.657, lambda: samples.copy(64, 1024, 12288, 48), 48, 1, "load_rate"),
        row(f"{copy} 4: rows of 12287", 259.047, lambda: samples.copy(64, 1024, 12287, 48), 48, 1),
        row(f"{copy} 5: four times", 816.05, lambda: samples.copy(64, 1024, 12288, 192), 48, 1),
        row(f"{add} 2: 8 KiB", 297.14, lambda: samples.add(4096, 341), 48, 1),
        row(f"{add} 3: 32 KiB", 261.5, lambda: samples.add(16384, 85), 48, 1),
        row(f"{add} 4: two buffers", 257.56, lambda: samples.add(16384, 85, 2), 48, 1),
    ]


def _even(work: int, most: int) -> dict[int, int]:
    """Programs that take every so-manieth piece of work: the first ones may have one more than the last ones."""
    count = min(work, most)
    more = work % count
    return {0: more, count - 1: count - more} if more else {0: count}


def _timed(made: Callable[[], Executed]) -> Timed:
    made = functools.cache(made)  # executed once, whatever it is to cost
    return lambda costs: made().time(costs).us


def _executed(
    kernel: Any, constants: Mapping[str, int], types: Mapping[str, str], arguments: list[Any], alike: dict[int, int]
) -> Executed:
    return programs.execute(programs.compiled(kernel, types, constants, chips.CHIPS["910B3"]), arguments, alike)


def _types(kernel: Any, pointer: str, constants: dict[str, int], **others: str) -> dict[str, str]:
    names = [name for name in kernel.arg_names if name not in constants]
    return {name: others.get(name, pointer if name.endswith("_ptr") else "i32") for name in names}


def _smallest(count: int) -> Timed:
    kernel, constants = published_kernels.smallest, {"BLOCK": 128}
    types = _types(kernel, "*fp32", constants)
    x = cases.zeros(128 * 40, dtype=np.float32)
    return _timed(lambda: _executed(kernel, constants, types, [x], {0: count}))


def _tiles(batches: int, heads: int, length: int, head_size: int) -> Timed:
    """Its tiles: 2 tokens of 32 heads or 5 of fewer, or what 192 KiB hold of q and k four times over in fp32."""
    tokens = max(1, min(2 if heads > 16 else 5, 192 * 1024 // (2 * heads * head_size * 16)))
    constants = {"HEADS": heads, "HALF": head_size // 2, "T": tokens}
    kernel, tiles = published_kernels.tiles_of_tokens, -(-length // tokens)
    types = _types(kernel, "*bf16", constants, cos_ptr="*fp32", sin_ptr="*fp32")

    def made() -> Executed:
        q, k = (cases.zeros(batches * length, heads * head_size) for _ in range(2))
        cos, sin = (cases.zeros(length, head_size, dtype=np.float32) for _ in range(2))
        arguments = [q, k, cos, sin, length, tiles, batches]
        return _executed(kernel, constants, types, arguments, _even(batches * tiles, 40))

    rotation = _timed(made)
    transposed = 2 * batches * heads * length * head_size  # bytes of q, and of k
    # Heads come before tokens: where there is more than one token, four copies are in the published time. One of 28 us
    # for 8192 numbers, beside 3.06 us for 512 of single tokens, says so.
    return lambda costs: rotation(costs) + (4 * launch.copy_us(transposed, costs) if length > 1 else 0)


def _token_by_token() -> Timed:
    kernel, constants = published_kernels.token_by_token, {"Q": 16, "KV": 4, "HALF": 64}

    def made() -> Executed:
        sizes = (3072, 2048, 512, 512)
        tensors = [cases.zeros(8192, size) for size in sizes]
        small = [cases.zeros(128), *(cases.zeros(8192, 128) for _ in range(2))]
        for x in (tensors[0][::40], *small):
            x[:] = cases.narrow(np.ones(x.shape))
        types = _types(kernel, "*bf16", constants)
        return _executed(kernel, constants, types, [*tensors, *small, 8192, 3072], _even(8192, 40))

    executed = functools.cache(made)
    crashes = functools.cache(lambda: programs.crashes(made))
    return lambda costs: None if crashes() else executed().time(costs).us


def _ours(num_tokens: int, heads: int, head_size: int) -> Timed:
    case = Case("", heads, 0, head_size, head_size, True, strided=False)
    return _timed(lambda: kernels.execute(kernels.ours(case, num_tokens, chips.CHIPS["910B3"]))[0])


def _seeds(head_size: int) -> Timed:
    """Moves what Liger's moves: a token at a time, cos and sin, both halves of q and of k, in place."""
    case = Case("", 32, 8, head_size, head_size, True, strided=False)
    text = kernels.release("0.13.0")
    return _timed(lambda: kernels.execute(kernels.theirs(case, 2048, chips.CHIPS["910B4"], text))[0])


def table(chosen: Mapping[str, Costs] = CHIPS) -> list[dict[str, Any]]:
    """The rows with what the clock says, for JSON."""
    return [_row(row, row.modelled(chosen[row.chip])) for row in rows()]


def _row(row: Published, us: float | None) -> dict[str, Any]:
    said: dict[str, Any] = {"what": row.what, "source": row.source, "chip": row.chip, "published_us": row.us}
    if us is None:
        return said | {"note": "cannot be executed on this host CANN: the vendor's sum of rows reads a null pointer"}
    errs = {"modelled_us": round(us, 2), "error_percent": round(100 * (us / row.us - 1))}
    return said | errs | {"fitted": row.fitted, "note": row.note}
