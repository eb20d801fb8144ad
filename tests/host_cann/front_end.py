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
    full = {name: signature[name] for name in kernel.arg_names if name in signature}
    defaults = {name: value for name, value in _defaults(kernel).items() if name not in full}
    source = ASTSource(kernel, full, constants=defaults | dict(constexprs))
    module = source.make_ir(options, backend.get_codegen_implementation(), backend.get_module_map(), context)
    metadata = {"hash": source.hash(), "target": target, **vars(options)}
    return ttir_to_linalg(make_ttir(module, metadata, options), metadata, options, named_ops=True)


def arguments(kernel: Any, constexprs: Mapping[str, Any]) -> list[str]:
    """The names of the arguments that ``kernel`` takes at run time; others are constexprs, or left at defaults."""
    return [name for name in kernel.arg_names if name not in constexprs and name not in _defaults(kernel)]


def _defaults(kernel: Any) -> dict[str, Any]:
    return {parameter.name: parameter.default for parameter in kernel.params if parameter.has_default}
