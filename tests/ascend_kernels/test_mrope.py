"""vLLM's ``_triton_mrope_forward`` by each of Ascend's compilers. Its wrapper: ``tests/ascend_stack/test_mrope.py``."""

import dataclasses

import numpy as np
import pytest

from tests.ascend_kernels.others import VERSIONS, error, kernel_of, program, random, run, turned
from tests.host_cann.fixture import needs_build

pytestmark = needs_build
MEMBER = "vllm/model_executor/layers/rotary_embedding/mrope.py"
TOKENS, HEADS, KV_HEADS = 3, 4, 2
CASES = {
    "Qwen3-VL": (128, 128, (24, 20, 20), True),
    "Qwen3.5": (256, 64, (11, 11, 10), True),
    "chunked, padded by a block at most": (64, 64, (8, 8, 16), False),
}
QWEN2_VL = (128, 128, (16, 24, 24), False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mrope")


def mrope_error(folder, version, head_size, rotary_dim, section, interleaved, changed=lambda program: program) -> float:
    """Each of three tokens has three positions, whose cosines are its own; each lane takes its section's."""
    kernel = kernel_of("0.23.0", folder, MEMBER, "_triton_mrope_forward")
    names = ("mrope_section_t", "mrope_section_h", "mrope_section_w")
    values = {"n_qh": HEADS, "n_kh": KV_HEADS, "hd": head_size, "rd": rotary_dim, "pad_n_qh": HEADS}
    values |= {
        "pad_n_kh": KV_HEADS,
        "pad_hd": head_size,
        "is_interleaved": interleaved,
        **dict(zip(names, section, strict=True)),
    }
    compiled = program(kernel, version, tuple(values.items()))
    assert compiled.ok, compiled.error
    tensors = [random(TOKENS, heads, head_size, seed=heads) for heads in (HEADS, KV_HEADS)]
    half = rotary_dim // 2
    (cos, wide_cos), (sin, wide_sin) = (random(3, TOKENS, half, seed=seed) for seed in (8, 9))
    compiled = dataclasses.replace(compiled, program=changed(compiled.program))
    run(compiled, TOKENS, tensors[0][0], tensors[1][0], cos, sin, TOKENS)
    of_lane = np.repeat([0, 1, 2], section)
    if interleaved:
        of_lane = np.zeros(half, int)
        of_lane[1 : 3 * section[1] : 3], of_lane[2 : 3 * section[2] : 3] = 1, 2
    turn = [wide[of_lane, :, np.arange(half)].T[:, None] for wide in (wide_cos, wide_sin)]
    exact = [np.concatenate((turned(x[..., :rotary_dim], *turn), x[..., rotary_dim:]), -1) for _, x in tensors]
    return float(np.max([error(bits, wanted) for (bits, _), wanted in zip(tensors, exact, strict=True)]))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_it_is_right_and_in_order(folder, version, case):
    assert mrope_error(folder, version, *CASES[case]) < 1


@pytest.mark.parametrize("version", VERSIONS)
def test_chunked_sections_ask_a_transfer_for_more_padding_than_it_can_give(folder, version):
    """Of Qwen2-VL's: the compiler asks for the 40 lanes before w's as padding, and the instruction pads by 32 bytes at
    most (asc-devkit, asc_copy_gm2ub_align.md). On NPUs "the vector core execution is abnormal" (vllm-ascend #6042), and
    vllm-ascend has not called it so since. Later compilers ask for the rest of a block only, whole ones being filled
    already (AscendNPU-IR 6245c8d, ConvertToHIVMOp.cpp): so changed, these programs are right."""
    from tests.host_cann import standalone

    with pytest.raises(standalone.Failed, match="padding of 80 and 0 bytes: more than a block"):
        mrope_error(folder, version, *QWEN2_VL)

    def rest_of_a_block(text: str) -> str:
        number = "%c40 = arith.constant 40 : index"
        assert text.count(number) == 1
        return text.replace(number, "%c40 = arith.constant 8 : index")

    assert mrope_error(folder, version, *QWEN2_VL, rest_of_a_block) < 1
