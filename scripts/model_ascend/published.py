"""Published times, and what the model says of the same work: the calibration, and the model's error.

python -m scripts.model_ascend --calibration
"""

from typing import Any, NamedTuple

from scripts.model_ascend import published_kernels
from scripts.model_ascend.kernels import Case, release, theirs
from scripts.model_ascend.launch import Launch, time
from scripts.model_ascend.rates import CHIPS
from tests.host_cann import chips, front_end


class Published(NamedTuple):
    """A published time; ``fitted`` if the rates were fitted to it, else it only checks them."""

    what: str
    source: str
    us: float
    chip: str
    launch: Launch
    fitted: bool
    note: str = ""

    @property
    def modelled_us(self) -> float:
        return time(self.launch, CHIPS[self.chip]).us

    @property
    def error(self) -> float:
        """Of the model, as a part of the published time."""
        return self.modelled_us / self.us - 1


# Without a shape, a chip, or Triton's IR: nothing to compare with.
NOT_COMPARABLE = (
    "vllm-ascend #5918, the seed: 57.1 us before, 9 us after; neither shape nor chip given",
    "vllm-ascend #4413: split, rotation and concatenation 35 us before, 12 us after; neither shape nor chip given",
    "tilelang-ascend: 3.1 to 3.5 us for small shapes; not a Triton kernel",
    "torch_npu: about 10 us for small operators; not a Triton kernel",
)


def rows() -> list[Published]:
    """All of the facts that can be compared, the fitted ones first."""
    mojo = "mojo_opset #368"
    transposes = "whether the transposes around the kernel are in it is not known"
    return [
        Published("smallest Triton kernel, 1 core", "triton-ascend", 2.3, "910B3", _smallest(1), True),
        Published("smallest Triton kernel, 40 cores", "triton-ascend", 3.1, "910B3", _smallest(40), True),
        Published("rotation 2x8x1x32", mojo, 3.06, "910B3", _tiles(2, 8, 1, 32), True),
        Published("rotation 2x16x4096x128", mojo, 320.0, "910B3", _tiles(2, 16, 4096, 128), True, transposes),
        Published("split, norm, rotation, 8192 tokens", "sgl-kernel-npu", 289.0, "910B3", _token_by_token(), True,
                  "16+4+4 heads of 128 and one program a core, inferred from its text"),
        Published("rotation 1x32x4096x128", mojo, 320.0, "910B3", _tiles(1, 32, 4096, 128), False, transposes),
        Published("rotation 2x16x512x128", mojo, 76.9, "910B3", _tiles(2, 16, 512, 128), False, transposes),
        Published("rotation 1x32x1024x32", mojo, 67.6, "910B3", _tiles(1, 32, 1024, 32), False, transposes),
        Published("rotation 1x4x32x64", mojo, 28.0, "910B3", _tiles(1, 4, 32, 64), False,
                  "nine times that of 2x8x1x32 for a like amount of work: more than the kernel is in it"),
        Published("rotation of 2048 tokens, smallest shape", "Liger", 190.0, "910B4", _liger(16), False,
                  "shapes inferred; time seen from the host, with transposes"),
        Published("rotation of 2048 tokens, largest shape", "Liger", 570.0, "910B4", _liger(256), False,
                  "shapes inferred; time seen from the host, with transposes"),
    ]  # fmt: skip


def _even(work: int, most: int) -> dict[int, int]:
    """Programs that take every so-manieth piece of work: the first ones may have one more than the last ones."""
    programs = min(work, most)
    more = work % programs
    return {0: more, programs - 1: programs - more} if more else {0: programs}


def _types(kernel: Any, pointer: str, constants: dict[str, int], **others: str) -> dict[str, str]:
    names = [name for name in kernel.arg_names if name not in constants]
    return {name: others.get(name, pointer if name.endswith("_ptr") else "i32") for name in names}


def _smallest(programs: int) -> Launch:
    kernel, constants = published_kernels.smallest, {"BLOCK": 128}
    return Launch(front_end.linalg(kernel, _types(kernel, "*fp32", constants), constants), (), {0: programs})


def _tiles(batches: int, heads: int, length: int, head_size: int) -> Launch:
    """Its tiles: 2 tokens of 32 heads or 5 of fewer, or what 192 KiB hold of q and k four times over in fp32."""
    tokens = max(1, min(2 if heads > 16 else 5, 192 * 1024 // (2 * heads * head_size * 16)))
    constants = {"HEADS": heads, "HALF": head_size // 2, "T": tokens}
    kernel, tiles = published_kernels.tiles_of_tokens, -(-length // tokens)
    types = _types(kernel, "*bf16", constants, cos_ptr="*fp32", sin_ptr="*fp32")
    return Launch(front_end.linalg(kernel, types, constants), (length, tiles, batches), _even(batches * tiles, 40))


def _token_by_token() -> Launch:
    kernel, constants = published_kernels.token_by_token, {"Q": 16, "KV": 4, "HALF": 64}
    return Launch(
        front_end.linalg(kernel, _types(kernel, "*bf16", constants), constants), (8192, 3072), _even(8192, 40)
    )


def _liger(head_size: int) -> Launch:
    """Moves what the seed's kernel moves: a token at a time, cos and sin, both halves of q and of k, in place."""
    case = Case("Liger", 32, 8, head_size, head_size, True, strided=False)
    return theirs(case, 2048, chips.CHIPS["910B4"], release("0.13.0"))


def table() -> list[dict[str, Any]]:
    """The rows with what the model says, for JSON."""
    return [
        {"what": row.what, "source": row.source, "chip": row.chip, "published_us": row.us,
         "modelled_us": round(row.modelled_us, 2), "error_percent": round(100 * row.error), "fitted": row.fitted,
         "note": row.note}
        for row in rows()
    ]  # fmt: skip
