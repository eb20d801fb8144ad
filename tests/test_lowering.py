"""The kernel through triton-ascend's own front end, to the Linalg that Ascend's compiler takes. Needs no NPU."""

import re
import subprocess

import pytest

triton = pytest.importorskip("triton", reason="needs triton-ascend")
if "ascend" not in triton.backends.backends:
    pytest.skip("needs triton-ascend; this is mainline triton", allow_module_level=True)

CODE = """
import sys
from triton._C.libtriton import ir
from triton.backends.ascend.compiler import AscendBackend, make_ttir, ttir_to_linalg
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rope_patch.kernels.plan import Device, Shape, make_plan
from rope_patch.kernels.rope import rotary_kernel

heads, kv_heads, head_size, rotary_dim, neox, in_place, num_tokens = map(int, sys.argv[1:8])
device = Device(max_programs=40, tile_bytes=192 * 1024, powers_of_two=False)
plan = make_plan(Shape(heads, kv_heads, head_size, rotary_dim, (heads + 2 * kv_heads) * head_size), num_tokens, device)
constants = dict(
    Q_HEADS=heads, K_HEADS=kv_heads, HEAD_SIZE=head_size, HALF=rotary_dim // 2, HALF_LANES=plan.half_lanes,
    REST_LANES=plan.rest_lanes, BLOCK_T=plan.block_tokens, BLOCK_Q=plan.block_heads, BLOCK_K=plan.block_kv_heads,
    IS_NEOX=bool(neox), WIDE_CACHE=False, PADDED=plan.padded, TRUNCATING_CAST=False,
)
if in_place:
    constants |= {"q_out_ptr": None, "k_out_ptr": None}
if not kv_heads:
    constants |= {"k_ptr": None, "k_out_ptr": None}
types = {"positions_ptr": "*i64"}
signature = {
    name: types.get(name, "*bf16" if name.endswith("_ptr") else "i32")
    for name in rotary_kernel.arg_names
    if name not in constants
}
backend, context = AscendBackend(GPUTarget("npu", "Ascend910B3", 0)), ir.context()
ir.load_dialects(context)
backend.load_dialects(context)
options = backend.parse_options({})
source = ASTSource(rotary_kernel, signature, constants, None)
module = source.make_ir(options, backend.get_codegen_implementation(), backend.get_module_map(), context)
metadata = dict(options.__dict__)
print(ttir_to_linalg(make_ttir(module, metadata, options), metadata, options, named_ops=True))
"""
SHAPES = [  # heads, key heads, head_size, rotary_dim, neox
    (32, 8, 128, 128, 1), (12, 1, 128, 64, 1), (32, 2, 128, 64, 0), (64, 64, 192, 192, 1), (32, 32, 96, 96, 1),
    (32, 32, 80, 20, 1), (16, 8, 256, 256, 1), (128, 1, 64, 64, 0), (24, 8, 128, 96, 1), (8, 0, 576, 576, 1),
]  # fmt: skip


@pytest.mark.parametrize("num_tokens", [1, 8192], ids=["decode", "prefill"])
@pytest.mark.parametrize("in_place", [0, 1], ids=["fresh", "in place"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_lowers_for_ascend_and_moves_heads_in_whole_blocks(
    shape: tuple[int, ...], in_place: int, num_tokens: int, tmp_path: object
) -> None:
    """A process each: triton-adapter-opt aborts where it cannot lower, and mainline settings must not leak in."""
    import os
    import sys

    from conftest import ROOT, clean_environment

    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment["PATH"]
    arguments = [str(value) for value in (*shape, in_place, num_tokens)]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "func.func @rotary_kernel" in done.stdout
    # Scalar loads are the gathered cache rows' positions only; a scalar store would be a lane written one by one.
    assert not re.search(r"memref\.store", done.stdout)
