"""Other people's kernels: taken from a release, compiled by any version of the compiler, run without a device; and
numbers to hold them against."""

import ast
import contextlib
import functools
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from tests.host_cann import bishengir, chips

from . import upstream

VERSIONS = [str(compiler) for compiler in bishengir.installed()]
KINDS = {"cos": "*bf16", "sin": "*bf16", "query_start_loc_ptr": "*i32", "block_table_ptr": "*i32"}
KINDS |= {"tokens_ptr": "*i64", "bin_counts_ptr": "*i32"}
KINDS |= dict.fromkeys(("pos_ptr", "positions_gm_ptr", "positions_ptr", "slot_mapping_ptr"), "*i64")


def text_of(release: str, member: str = upstream.MEMBER) -> str:
    """A file of that release, from its environment."""
    found = list((Path(sys.prefix).parent / f"stack-{release}").glob(f"lib/python*/site-packages/{member}"))
    if not found and not os.environ.get("HOST_CANN_REQUIRED"):
        pytest.skip(f"no environment stack-{release}")
    return found[0].read_text()


@functools.cache
def module_of(release: str, folder: Path, member: str = upstream.MEMBER):
    """That file as a module, without vLLM."""
    text = text_of(release, member)
    own = folder / f"{release}-{Path(member).stem}"
    own.mkdir()
    return upstream.kernel_module(text, own)


@functools.cache
def kernel_of(release: str, folder: Path, member: str, name: str):
    """One kernel of a file whose imports are too many to answer."""
    text = text_of(release, member)
    (found,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name)
    lines = text.splitlines()[found.decorator_list[0].lineno - 1 : found.end_lineno]
    own = folder / f"{release}-{name}"
    own.mkdir()
    imports = ["import triton", "import triton.language as tl"]
    return getattr(upstream.kernel_module("\n".join([*imports, *lines, ""]), own), name)


@functools.cache
def program(
    kernel, version: str, constants: tuple[tuple[str, object], ...], kinds: tuple[tuple[str, str], ...] = ()
) -> bishengir.Compiled:
    from tests.host_cann import front_end

    values = dict(constants)
    names = [name for name in kernel.arg_names if name not in values]
    types = {name: KINDS.get(name, "*bf16" if name.endswith("_ptr") else "i32") for name in names} | dict(kinds)
    (compiler,) = (found for found in bishengir.installed() if str(found) == version)
    return bishengir.compile(front_end.linalg(kernel, types, values), compiler, chips.current())


def run(compiled: bishengir.Compiled, grid: int, *arguments, in_program_order: bool = False) -> None:
    """``in_program_order`` lets kernels run that are known to race, as they are on the host CANN."""
    from tests.host_cann import standalone, trace

    assert compiled.ok, compiled.error
    kernel = standalone.load(compiled.program)
    with contextlib.ExitStack() as stack:
        if in_program_order:
            stack.enter_context(mock.patch.object(trace, "every_race", contextlib.nullcontext))
        kernel.run(grid, arguments)


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
