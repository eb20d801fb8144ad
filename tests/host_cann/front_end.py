"""Triton-Ascend's own front end, without a device: a kernel's source to the Linalg that the back end is given."""

from collections.abc import Mapping
from typing import Any


def linalg(kernel: Any, signature: Mapping[str, str], constexprs: Mapping[str, Any], **chosen: Any) -> str:
    """The Linalg of ``kernel`` (a ``triton.jit`` function) for run-time arguments of the given types ("*bf16", "i32",
    ...) and the given constexpr arguments; ``None`` pointers are constexprs too. Needs no host CANN, only the wheel.
    ``chosen`` are Triton-Ascend's options, where not its defaults.
    """
    from triton._C.libtriton import ir
    from triton.backends.ascend.compiler import AscendBackend, make_ttir, ttir_to_linalg
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import ASTSource

    from . import chips

    target = GPUTarget("npu", chips.current().soc_name, 0)
    backend = AscendBackend(target)
    options = backend.parse_options(chosen)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    full = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    full = {name: kind for name, kind in full.items() if kind != "constexpr"}
    source = ASTSource(kernel, full, constants=dict(constexprs))
    module = source.make_ir(options, backend.get_codegen_implementation(), backend.get_module_map(), context)
    metadata = {"hash": source.hash(), "target": target, **vars(options)}
    return ttir_to_linalg(make_ttir(module, metadata, options), metadata, options, named_ops=True)
