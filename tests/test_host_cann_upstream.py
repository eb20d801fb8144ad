"""vllm-ascend's own kernel on the host CANN: it fits and overflows as users reported, and is wrong where they say."""

import re

import pytest

from tests.host_cann import upstream
from tests.host_cann.compiler import ub
from tests.host_cann.fixture import needs_build

RELEASE = upstream.source()
pytestmark = [needs_build, pytest.mark.skipif(RELEASE is None, reason="no vllm-ascend release to read")]
UB_BITS = 192 * 1024 * 8


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return upstream.kernel_module(RELEASE[1], tmp_path_factory.mktemp("upstream"))


# heads, rotary dim, style, what was reported, KiB modelled
CALIBRATION = re.findall(r"^ +(\d+) x (\d+) .*(NeoX|GPT-J) +(overflow|fits).* {2,}(\d+) KiB", ub.__doc__, re.M)


@pytest.mark.parametrize(("heads", "rotary_dim", "style", "reported", "kib"), CALIBRATION)
def test_the_model_of_the_unified_buffer_meets_the_reports(module, heads, rotary_dim, style, reported, kib):
    """The table in ``compiler/ub.py``, row by row; ``pytest -s`` prints it as it comes out."""
    from tests.host_cann import facts

    arguments = upstream.arguments(int(heads), int(rotary_dim), style == "NeoX", block=int(heads))
    needed = facts.of(module._triton_rope, *arguments).ub_bytes
    fits = needed * 8 <= UB_BITS
    print(f"{heads} x {rotary_dim} {style}: reported {reported}; modelled {needed / 1024:g} of 192 KiB")
    assert needed == int(kib) * 1024
    assert fits == (reported == "fits")


def test_the_calibration_has_its_six_reports():
    assert len(CALIBRATION) == 6


def run(torch, module, rotary_dim):
    """(result, reference) for three tokens of four heads."""
    from tests.host_cann.doubles import rotated

    torch.manual_seed(rotary_dim)
    q, k = torch.randn(3, 4, rotary_dim).bfloat16(), torch.randn(3, 2, rotary_dim).bfloat16()
    cache, positions = torch.randn(64, rotary_dim).bfloat16(), torch.tensor([5, 0, 63])
    cos, sin = cache[positions].chunk(2, -1)
    on_npu = q.npu()
    k_npu = k.npu()
    pad = 1 << (rotary_dim - 1).bit_length()
    module._triton_rope[(3,)](
        on_npu,
        on_npu.stride(0),
        k_npu,
        k_npu.stride(0),
        None,
        None,
        None,
        None,
        cache.npu(),
        rotary_dim,
        positions.npu(),
        3,
        4,
        2,
        rotary_dim,
        rotary_dim,
        pad,
        BLOCK_SIZE_HEAD=16,
        IS_NEOX_STYLE=True,
        USE_COS_SIN=True,
    )
    return on_npu.cpu(), rotated(q, cos[:, None], sin[:, None], True)


@pytest.mark.parametrize("rotary_dim", [32, 64, 128])
def test_powers_of_two_are_exact(npu, module, rotary_dim):
    result, reference = run(npu, module, rotary_dim)
    assert npu.equal(result, reference)


@pytest.mark.parametrize("rotary_dim", [20, 24, 40, 96, 192])
def test_other_rotary_dims_are_wrong(npu, module, rotary_dim):
    """The defect users reported (vllm-ascend #12723). It reads sin at half the *padded* dim."""
    result, reference = run(npu, module, rotary_dim)
    error = (result.float() - reference.float()).abs().max().item()
    assert error > 0.5, f"vllm-ascend {RELEASE[0]} is right for {rotary_dim}: upstream fixed it, say so in the README"


def test_its_own_head_block_overflows_for_192(npu, module):
    """Its wrapper takes blocks of 64 heads whatever the dim, and the compiler refuses them, as on an A3."""
    from triton.compiler.errors import MLIRCompilationError

    x = npu.zeros(2, 4, 192, dtype=npu.bfloat16, device="npu")
    with pytest.raises(MLIRCompilationError, match="ub overflow, requires 1589248 bits while 1572864 bits available"):
        module.rope_forward_triton(
            x,
            x.clone(),
            cos_sin_cache=npu.zeros(8, 192, dtype=npu.bfloat16, device="npu"),
            positions=npu.zeros(2, dtype=npu.int64, device="npu"),
            rope_dim=192,
        )
