"""Upstream's rotary kernels, compiled by each of Ascend's compilers and executed: which are right?"""

import functools
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.host_cann import bishengir, chips, upstream
from tests.host_cann.fixture import needs_build

pytestmark = needs_build
VERSIONS = [str(compiler) for compiler in bishengir.installed()]
TOKENS, ROWS = 3, 64


def text_of(release: str, member: str = upstream.MEMBER) -> str:
    """A file of that release, from its environment."""
    found = list((Path(sys.prefix).parent / f"stack-{release}").glob(f"lib/python*/site-packages/{member}"))
    if not found and not os.environ.get("HOST_CANN_REQUIRED"):
        pytest.skip(f"no environment stack-{release}")
    return found[0].read_text()


@functools.cache
def program(kernel, version: str, constants: tuple[tuple[str, object], ...]) -> bishengir.Compiled:
    from tests.host_cann import front_end

    kinds = {"cos": "*bf16", "sin": "*bf16", "pos_ptr": "*i64", "positions_gm_ptr": "*i64", "positions_ptr": "*i64"}
    values = dict(constants)
    names = [name for name in kernel.arg_names if name not in values]
    types = {name: kinds.get(name, "*bf16" if name.endswith("_ptr") else "i32") for name in names}
    (compiler,) = (found for found in bishengir.installed() if str(found) == version)
    return bishengir.compile(front_end.linalg(kernel, types, values), compiler, chips.current())


def run(compiled: bishengir.Compiled, grid: int, *arguments) -> None:
    from tests.host_cann import standalone

    assert compiled.ok, compiled.error
    standalone.load(compiled.program).run(grid, arguments)


def random(*shape: int, seed: int = 0):
    """bf16 as bits, and as numbers."""
    from scripts.model_ascend import cases

    bits = cases.zeros(*shape)
    bits[...] = cases.narrow(np.random.default_rng(seed).standard_normal(shape, np.float32))
    return bits, cases.wide(bits)


def turned(x, cos, sin, is_neox_style=True):
    x1, x2 = np.split(x, 2, -1) if is_neox_style else (x[..., 0::2], x[..., 1::2])
    y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
    return np.concatenate((y1, y2), -1) if is_neox_style else np.stack((y1, y2), -1).reshape(x.shape)


def error(bits, exact) -> float:
    """The largest, in units of bf16's rounding beside an absolute part of as much."""
    from scripts.model_ascend import cases

    return float((np.abs(cases.wide(bits).reshape(exact.shape) - exact) / (np.abs(exact) + 1)).max() * 2**8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("upstream")


@functools.cache
def module_of(release: str, folder: Path, member: str = upstream.MEMBER):
    text = text_of(release, member)
    own = folder / f"{release}-{Path(member).stem}"
    own.mkdir()
    return upstream.kernel_module(text, own)


def rope_error(kernel, version: str, rotary_dim: int, neox: bool = True, heads: int = 4) -> float:
    """Of vllm-ascend's ``_triton_rope``, for three tokens of so many heads, q and k."""
    q, wide_q = random(TOKENS, heads, rotary_dim)
    k, wide_k = random(TOKENS, 2, rotary_dim, seed=1)
    cache, wide_cache = random(ROWS, rotary_dim, seed=2)
    positions = np.array([5, 0, 63])
    pad = 1 << (rotary_dim - 1).bit_length()
    values = {"n_qh": heads, "n_kh": 2, "hd": rotary_dim, "rope_dim": rotary_dim, "pad_rope_dim": pad}
    values |= {"IS_NEOX_STYLE": neox, "pad_n_qh": heads, "pad_n_kh": 2, "BLOCK_SIZE": heads, "BLOCK_SIZE_HEAD": 16}
    rows = [q, heads * rotary_dim, k, 2 * rotary_dim]
    if "cos_sin_ptr" in kernel.arg_names:
        values |= dict.fromkeys(("cos_ptr", "cos_row_stride", "sin_ptr", "sin_row_stride")) | {"USE_COS_SIN": True}
        rows += [cache, rotary_dim, positions, TOKENS]
    else:
        half = rotary_dim // 2
        cos, sin = (np.ascontiguousarray(part) for part in np.split(cache[positions], 2, -1))
        rows += [cos, half, sin, half, TOKENS]
    values = {name: value for name, value in values.items() if name in kernel.arg_names}
    run(program(kernel, version, tuple(values.items())), TOKENS, *rows)
    turn = [part[:, None] for part in np.split(wide_cache[positions], 2, -1)]
    return max(error(q, turned(wide_q, *turn, neox)), error(k, turned(wide_k, *turn, neox)))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("release", ["0.13.0", "0.18.0", "0.23.0"])
def test_rotary_kernels_of_each_release_are_right_for_powers_of_two(folder, release, version):
    assert rope_error(module_of(release, folder)._triton_rope, version, 64) < 2


@pytest.mark.parametrize("rotary_dim", [20, 24, 40, 96, 192])
def test_other_rotary_dims_are_wrong(folder, rotary_dim):
    """What users reported (vllm-ascend #12723): it reads sin at half the *padded* dim. 0.13.0 is handed cos and sin."""
    assert rope_error(module_of("0.23.0", folder)._triton_rope, VERSIONS[-1], rotary_dim) > 50
    if rotary_dim == 96:
        assert rope_error(module_of("0.18.0", folder)._triton_rope, VERSIONS[-1], rotary_dim) > 50
        assert rope_error(module_of("0.13.0", folder)._triton_rope, VERSIONS[-1], rotary_dim) < 2


@pytest.mark.parametrize("version", VERSIONS)
def test_its_own_head_block_for_192(folder, version):
    _, values = upstream.arguments(64, 192, True, block=64)
    found = program(module_of("0.23.0", folder)._triton_rope, version, tuple(values.items()))
    print(version, found.ok, found.error, found.notes)
    assert not found.ok or found.notes


@pytest.mark.parametrize("version", VERSIONS)
def test_vllms_mrope_is_taken_and_its_padding_is_refused_by_name(folder, version):
    """It pads rows on the left by more than a block; what that does is not described, so it is not executed."""
    from tests.host_cann import standalone

    kernel = module_of("0.23.0", folder, "vllm/model_executor/layers/rotary_embedding/mrope.py")._triton_mrope_forward
    (q, _), (k, _) = random(TOKENS, 4, 128), random(TOKENS, 2, 128, seed=1)
    (cos, _), (sin, _) = random(3, TOKENS, 64, seed=2), random(3, TOKENS, 64, seed=3)
    values = {"n_qh": 4, "n_kh": 2, "hd": 128, "rd": 128, "pad_n_qh": 4, "pad_n_kh": 2, "pad_hd": 128}
    values |= {"mrope_section_t": 16, "mrope_section_h": 24, "mrope_section_w": 24, "is_interleaved": False}
    text = program(kernel, version, tuple(values.items()))
    with pytest.raises(standalone.Failed, match="padding of 80 and 0 bytes: more than a block"):
        run(text, TOKENS, q, k, cos, sin, TOKENS)


QH, KH, HEAD, PER_PROGRAM = 12, 1, 128, 4  # tokens at once: as its wrapper reckons for these heads


def split_qkv(folder, version: str, tokens: int) -> float:
    """Run vllm-ascend 0.23.0's (and 0.18.0's: the same text) on one core; its error."""
    member = "vllm_ascend/ops/triton/linearnorm/split_qkv_rmsnorm_rope.py"
    kernel = module_of("0.23.0", folder, member).split_qkv_rmsnorm_rope_kernel
    q_size, kv_size = QH * HEAD, KH * HEAD
    values = {"q_bias_ptr": None, "k_bias_ptr": None, "q_hidden_size": q_size, "kv_hidden_size": kv_size}
    values |= {"total_hidden_size": q_size + 2 * kv_size, "eps": 1e-6, "BIAS": False, "HEAD_DIM": HEAD}
    values |= {"ROPE_DIM": HEAD, "HALF_ROPE_DIM": HEAD // 2, "IS_PARTIAL_ROPE": False, "num_vectorcore": 1}
    values |= {"batch_size_per_iter_per_vec": PER_PROGRAM, "qk_head_nums_per_iter_per_vec": PER_PROGRAM * (QH + KH)}
    values |= {"q_head_num": QH, "kv_head_num": KH, "qk_head_num_sum": QH + KH, "v_batch_size_per_iter_per_vec": 337}
    (x, wide), (cache, wide_cache) = random(tokens, q_size + 2 * kv_size), random(ROWS, HEAD, seed=1)
    outputs = [random(tokens, size)[0] for size in (q_size, kv_size, kv_size)]
    (q_weight, wq), (k_weight, wk) = random(HEAD, seed=2), random(HEAD, seed=3)
    positions = np.arange(tokens) * 7 % ROWS
    compiled = program(kernel, version, tuple(values.items()))
    run(compiled, 1, x, *outputs, q_weight, k_weight, tokens, positions, cache)
    assert (outputs[2] == x[:, q_size + kv_size :]).all()
    turn, errors = [part[:, None] for part in np.split(wide_cache[positions], 2, -1)], []
    for out, weight, heads, at in ((outputs[0], wq, QH, 0), (outputs[1], wk, KH, q_size)):
        y = wide[:, at : at + heads * HEAD].reshape(tokens, heads, HEAD)
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-6) * weight
        errors.append(error(out, turned(y, *turn)))
    return max(errors)


@pytest.mark.parametrize("version", VERSIONS)
def test_split_qkv_rmsnorm_rope_reads_positions_behind_the_last_token_unordered(folder, version):
    """The last tile, if not full: the vector pipe fills the rest of its positions, and the scalar unit reads them with
    no flag between. Those are rows of nobody, so this alone does not explain vllm-ascend #16674."""
    from tests.host_cann import standalone

    said = r"order: scalar load \(pipe S\) reads 8 bytes at UB \w+, with no flag or barrier after MOVEV.s32 \(pipe V\)"
    with pytest.raises(standalone.Failed, match=said):
        split_qkv(folder, version, 10)
