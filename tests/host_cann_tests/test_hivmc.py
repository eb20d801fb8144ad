"""The stand-in for ``hivmc``: the real compiler starts it, it runs what that makes, and names what it refuses."""

import shutil

import pytest

from tests.host_cann import environment
from tests.host_cann.fixture import needs_build

pytestmark = needs_build


def test_the_compiler_on_path_is_huaweis_own_and_finds_the_stand_in(npu):
    assert shutil.which("bishengir-compile") == str(environment.compiler() / "bin" / "bishengir-compile")
    assert shutil.which("hivmc") == str(environment.home() / "bin" / "hivmc")


def test_a_kernel_may_be_called_as_a_word_of_c(npu):
    from tests.host_cann.sample_kernels import double

    x = npu.arange(64.0).npu()
    double[(1,)](x, BLOCK=64)
    assert x.cpu().tolist() == list(range(0, 128, 2))


def test_a_product_is_rounded_before_it_is_added_to(npu):
    from tests.host_cann.sample_kernels import multiply_add

    x = npu.full((64,), 1 + 2.0**-12)
    z = npu.full((64,), -(1 + 2.0**-11))
    out = z.npu()
    multiply_add[(1,)](x.npu(), x.npu(), out, BLOCK=64)
    fused = 2.0**-24  # what a fused multiply-add would give
    assert (out.cpu() == x * x + z).all()
    assert (out.cpu() != fused).all()


def test_a_scalar_that_the_library_spreads_is_what_comes_back_from_there(npu):
    """Where its buffer lies is told by either pointer of a memref; both must lead there (``program.py``)."""
    from tests.host_cann.sample_kernels import divide

    x = npu.arange(1.0, 65.0)
    out = x.npu()
    divide[(1,)](out, 3.0, BLOCK=64)
    assert (out.cpu() == x / 3).all()


def test_every_second_element_is_gathered_in_the_unified_buffer(npu):
    from tests.host_cann.sample_kernels import every_second

    x, y = npu.arange(256.0).npu(), npu.zeros(64).npu()
    every_second[(1,)](x, y, BLOCK=64)
    assert y.cpu().tolist() == list(range(0, 128, 2))


def test_an_instruction_that_is_not_implemented_refuses_the_kernel_and_names_both(npu):
    from tests.host_cann.hivmc import __main__ as hivmc
    from tests.host_cann.hivmc import program

    text = """
module {
  func.func private @sort_1d_float() attributes {hacc.always_inline}
  func.func @k(%arg0: i64, %arg1: i32) attributes {KINDS} {
    func.call @sort_1d_float() : () -> ()
    return
  }
}""".replace("KINDS", "hacc.function_kind = #hacc.function_kind<DEVICE>, hivm.x = #hivm.func_core_type<AIV>")
    refused = r"kernel k calls sort_1d_float, which needs .*hivm_VMRGSORT_f32_V220.*: not implemented"
    with pytest.raises(program.Unknown, match=refused):
        hivmc.made(text, "key", environment.home(), environment.home() / "never")


def test_an_operation_that_is_not_known_is_named():
    from tests.host_cann.hivmc import program

    with pytest.raises(program.Unknown, match=r"operation hivm\.hir\.sync_block_set"):
        program.rewrite("module {\n  hivm.hir.sync_block_set[<VECTOR>]\n}", "k")


def test_line_numbers_are_those_of_the_program():
    """A flag is identified by its line in the compiler's text, even if lines before it are left out."""
    from tests.host_cann.hivmc import program

    host = "  func.func @k_host() attributes {hacc.function_kind = #hacc.function_kind<HOST>} {\n    return\n  }\n"
    text = "module {\n" + host + "    hivm.hir.pipe_barrier[<PIPE_V>]\n}"
    assert "arith.constant 5 : i32" in program.rewrite(text, "k")


def test_programs_of_the_older_compiler_are_told():
    from tests.host_cann.hivmc import __main__ as hivmc

    assert hivmc.needs_library_calls("  hivm.hir.vmul ins(%1, %2 : memref<8xf32>)")
    assert not hivmc.needs_library_calls("  func.call @vmul_1d_float(%1) : (memref<8xf32>) -> ()")
