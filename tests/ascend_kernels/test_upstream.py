"""Upstream's rotary kernels, compiled by each of Ascend's compilers and executed: which are right?"""

import numpy as np
import pytest

from tests.ascend_kernels import upstream
from tests.ascend_kernels.others import VERSIONS, error, module_of, program, random, run, turned
from tests.host_cann.fixture import needs_build

pytestmark = needs_build
TOKENS, ROWS = 3, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("upstream")


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
    return float(np.max([error(q, turned(wide_q, *turn, neox)), error(k, turned(wide_k, *turn, neox))]))


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
