"""What norm and rotation compute, and the error that rounding explains: wide enough for fp32, too narrow for bf16."""

import pytest

torch = pytest.importorskip("torch", reason="the reference needs torch")
pytest.importorskip("triton", reason="its package needs triton")

from rope_patch.kernels.shape import Rotation  # noqa: E402
from rope_patch.operators.norm_reference import expected  # noqa: E402
from rope_patch.operators.reference import rotate  # noqa: E402

SHAPES = [(128, 128), (128, 64), (64, 64), (256, 64), (96, 32)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def inputs(head_size: int, rotary_dim: int, dtype: torch.dtype, bias: bool):
    generator = torch.Generator().manual_seed(head_size + rotary_dim)
    heads = torch.exp2(torch.randint(-6, 6, (19, 3, 1), generator=generator).float())
    heads = (heads * torch.randn(19, 3, head_size, generator=generator)).to(dtype)
    weight, shift = (torch.randn(2, head_size, generator=generator) + torch.tensor([[1.0], [0.0]])).to(dtype)
    angles = 6.28 * torch.rand(19, rotary_dim // 2, generator=generator)
    rows = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
    return heads, weight, shift if bias else None, rows


def computed(heads, weight, bias, eps, rows, compute, between=None):
    """Norm, then rotation, in a dtype; rounded to another one between them, and to the input's at the end."""
    x, rotary_dim = heads.to(compute), rows.shape[-1]
    normed = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.to(compute)
    normed = normed if bias is None else normed + bias.to(compute)
    normed = normed if between is None else normed.to(between).to(compute)
    asked = Rotation(heads.shape[-1], rotary_dim, True)
    return rotate(torch.arange(len(rows)), normed, rows, asked, compute)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("head_size", "rotary_dim"), SHAPES)
def test_it_is_the_norm_and_then_the_rotation(head_size, rotary_dim, bias):
    given = inputs(head_size, rotary_dim, torch.bfloat16, bias)
    heads, weight, shift, rows = given
    exact, _ = expected(heads, weight, shift, 1e-6, rows)
    torch.testing.assert_close(exact, computed(heads, weight, shift, 1e-6, rows, torch.float64))
    if shift is None:
        normed = torch.nn.functional.rms_norm(heads.double(), (head_size,), weight.double(), 1e-6)
        torch.testing.assert_close(exact[..., rotary_dim:], normed[..., rotary_dim:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("head_size", "rotary_dim"), SHAPES)
def test_what_fp32_computes_and_is_rounded_once_is_right(head_size, rotary_dim, bias, dtype):
    heads, weight, shift, rows = inputs(head_size, rotary_dim, dtype, bias)
    exact, bound = expected(heads, weight, shift, 1e-6, rows)
    found = computed(heads, weight, shift, 1e-6, rows, torch.float32).to(dtype).double()
    assert ((found - exact).abs() <= bound).all()


@pytest.mark.parametrize(("head_size", "rotary_dim"), SHAPES)
def test_a_second_rounding_between_norm_and_rotation_is_wrong(head_size, rotary_dim):
    heads, weight, _, rows = inputs(head_size, rotary_dim, torch.bfloat16, False)
    exact, bound = expected(heads, weight, None, 1e-6, rows)
    found = computed(heads, weight, None, 1e-6, rows, torch.float32, torch.bfloat16).bfloat16().double()
    wrong = ~((found - exact).abs() <= bound)
    assert wrong[..., :rotary_dim].float().mean() > 0.1
    assert not wrong[..., rotary_dim:].any(), "lanes that are not rotated are rounded once"


@pytest.mark.parametrize("part", ["eps", "weight", "bias", "rows", "order"])
def test_a_wrong_part_is_found(part):
    heads, weight, bias, rows = inputs(128, 64, torch.bfloat16, True)
    exact, bound = expected(heads, weight, bias, 1e-6, rows)
    eps = 1e-2 if part == "eps" else 1e-6
    weight = weight * 1.02 if part == "weight" else weight
    bias = bias + 0.02 if part == "bias" else bias
    rows = rows.roll(1, 0) if part == "rows" else rows
    found = computed(heads, weight, bias, eps, rows, torch.float32).double()
    if part == "order":  # rotated first, as a kernel might that takes the norm's weight for the rotation's
        turned = rotate(torch.arange(19), heads, rows, Rotation(128, 64, True), torch.float64)
        found = turned * (turned.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double() + bias.double()
    assert (~((found - exact).abs() <= bound)).float().mean() > 0.05
