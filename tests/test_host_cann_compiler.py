"""The compiler stand-in by itself: what it refuses, and that it does not contract."""

import re
import subprocess

import pytest

from tests.host_cann import build, environment
from tests.host_cann.fixture import needs_build

pytestmark = needs_build

I32 = ", ".join(f"%arg{i}: i32" for i in range(3, 9))  # the grid's sizes and the program's place in it
KERNEL = """
module {
  func.func @k(%arg0: memref<?xi8>, %arg1: memref<?xi8>, %arg2: memref<?xf32>, GRID) attributes {mix_mode = "aiv"} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    scf.for %arg9 = %c0 to %c4 step %c1 {
      %view = memref.reinterpret_cast %arg2 to offset: [%arg9], sizes: [N], strides: [1] : memref<?xf32> to GLOBAL
      %alloc = memref.alloc() : memref<Nxf32>
      memref.copy %view, %alloc : GLOBAL to memref<Nxf32>
      %0 = bufferization.to_tensor %alloc restrict writable : memref<Nxf32>
      bufferization.materialize_in_destination %0 in writable %view : (tensor<Nxf32>, GLOBAL) -> ()
    }
    return
  }
}
""".replace("GLOBAL", "memref<Nxf32, strided<[1], offset: ?>>").replace("GRID", I32)


def compile_kernel(tmp_path, elements: int, *options: str, name: str = "k") -> subprocess.CompletedProcess[str]:
    home = build.ensure()
    source = tmp_path / "kernel.mlir"
    source.write_text(re.sub(r"\bN(?=\]|x)", str(elements), KERNEL).replace("@k(", f"@{name}("))
    return subprocess.run(
        [home / "bin" / "bishengir-compile", source, *options, "-o", tmp_path / "kernel"],
        env=environment.variables(home),
        capture_output=True,
        text=True,
    )


def test_what_fits_compiles_to_name_dot_o(tmp_path):
    assert compile_kernel(tmp_path, 1024).returncode == 0
    assert (tmp_path / "kernel.o").is_file()


def test_a_kernel_may_be_called_as_a_word_of_c(tmp_path):
    assert compile_kernel(tmp_path, 1024, name="double").returncode == 0


def test_what_does_not_fit_is_refused_with_both_numbers(tmp_path):
    done = compile_kernel(tmp_path, 49152, "--enable-auto-multi-buffer=False")
    bits = (49152 * 4 + 2048) * 8
    assert done.returncode != 0
    assert f"ub overflow, requires {bits} bits while 1572864 bits available" in done.stderr


def test_multi_buffering_doubles_what_is_loaded_in_a_loop(tmp_path):
    assert compile_kernel(tmp_path, 30000, "--enable-auto-multi-buffer=False").returncode == 0
    done = compile_kernel(tmp_path, 30000, "--enable-auto-multi-buffer=True")
    assert "ub overflow" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("target", "said"), [("Ascend310P3", "does not compile for"), ("Ascend999", "expected one of")]
)
def test_a_chip_without_triton_is_refused(tmp_path, target, said):
    done = compile_kernel(tmp_path, 16, f"--target={target}")
    assert done.returncode != 0
    assert said in done.stderr


def test_a_product_is_rounded_before_it_is_added_to(npu):
    from tests.host_cann.sample_kernels import multiply_add

    x = npu.full((64,), 1 + 2.0**-12)
    z = npu.full((64,), -(1 + 2.0**-11))
    out = z.npu()
    multiply_add[(1,)](x.npu(), x.npu(), out, BLOCK=64)
    fused = 2.0**-24  # what a fused multiply-add would give
    assert (out.cpu() == x * x + z).all()
    assert (out.cpu() != fused).all()
