"""``vllm_ascend_C``, vllm-ascend's compiled extension, on the host CANN: it loads where it can, and its operators are
doubles or refuse by name.

It is linked against all of CANN and against torch 2.10. What neither torch-npu nor the runtime brings is stubs again
(``stubs.py``), in a library beside the host CANN; what torch has under another name since jumps there. Its operators
are registered under the numbers that PrivateUse1 and Meta had in torch 2.10, so they are registered here once more.
0.13.0's ends the process when it is loaded, and 0.11.0's has not been tried: these go without, and what a mixture of
experts needs of it is declared here. A source distribution has none, since nothing of it is built: its operators are
declared as its source does, and the module is an empty one, without the allocator for sleep mode.
"""

import ast
import ctypes
import fcntl
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from . import build, doubles, environment, experts, layers, library, operators, stubs

LOADS = {"0.18.0", "0.23.0"}
DEFINE = "_ZNR5torch7Library4_defEON3c1014FunctionSchemaEPNS1_12OperatorNameE"
TORCH = DEFINE + "RKSt6vectorI{}SaI{}EENS_17_RegisterOrVerifyE"
COPY_ON_WRITE = "_ZN3c104impl3cow{}StorageImplE"
RENAMED = {  # of torch 2.10 -> of the torch that is installed; the same function
    TORCH.format("N2at3TagE", "S8_"): TORCH.format("NS_10headeronly3TagE", "S8_"),
    COPY_ON_WRITE.format("23materialize_cow_storageERNS_11"): COPY_ON_WRITE.format("15materialize_cowEPNS_11"),
}
# Where install_stack puts the source of what is not built.
SOURCE = "vllm_ascend_source/csrc/torch_binding.cpp"
DECLARATION = re.compile(r'ops\.def\(((?:\s*"(?:[^"\\]|\\.)*")+)')
CUSTOM = {**layers.CUSTOM, **experts.CUSTOM, "rotary_embedding": doubles.custom_rotary_embedding}


def version() -> str:
    return importlib.metadata.version("vllm-ascend")


def load() -> bool:
    """Load it once per process, if this release's can be loaded here; returns whether it was."""
    import torch

    at_home = torch.library.Library("_C_ascend", "FRAGMENT")
    doubles._custom.append(at_home)
    source = Path(importlib.util.find_spec("vllm_ascend").origin).parents[1] / SOURCE
    if source.exists():
        _declare(at_home, source)
        return False
    if version() not in LOADS:
        for schema in experts.SCHEMAS:
            name = at_home.define(schema)
            at_home.impl(name, operators.on_device(experts.CUSTOM[name]), operators.DEVICE_KEY)
        return False
    for path in _libraries():
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # the extension finds the loaded libraries by name
    importlib.import_module("vllm_ascend.vllm_ascend_C")
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        if space == "_C_ascend" and "." not in name:
            _implement(at_home, name)
    at_home.impl("npu_add_rms_norm_bias", layers.add_rms_norm_bias_shapes, "Meta", allow_override=True)
    return True


def _implement(at_home: Any, name: str) -> None:
    function = operators.on_device(CUSTOM[name]) if name in CUSTOM else operators.refused(f"_C_ascend::{name}")
    at_home.impl(name, function, operators.DEVICE_KEY, allow_override=True)


def _declare(at_home: Any, source: Path) -> None:
    """The operators that this source declares."""
    # Strings beside one another are one, as in C. Some are there twice, for two kinds of builds.
    schemas = [ast.literal_eval(f"({found[1]})") for found in DECLARATION.finditer(source.read_text())]
    for schema in {schema.partition("(")[0]: schema for schema in schemas}.values():
        _implement(at_home, at_home.define(schema))
    at_home.impl("npu_add_rms_norm_bias", layers.add_rms_norm_bias_shapes, "Meta")
    sys.modules["vllm_ascend.vllm_ascend_C"] = ModuleType("vllm_ascend.vllm_ascend_C")


def _libraries() -> list[Path]:
    """The stubs first, then what is linked by the name of a library that nobody brings; built once."""
    folder = Path(importlib.util.find_spec("vllm_ascend").origin).parent
    extension = [*folder.glob("vllm_ascend_C*.so"), *folder.glob("libvllm_ascend_kernels.so")]
    text = Path(__file__).read_bytes() + version().encode()
    out = environment.home() / f"extension-{hashlib.sha256(text).hexdigest()[:16]}"
    with open(build.CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "complete").exists():
            out.mkdir(exist_ok=True)
            _build(out, extension)
            (out / "complete").touch()
    return [out / "libhost_extension.so", *sorted(set(out.glob("*.so")) - {out / "libhost_extension.so"})]


def _build(out: Path, extension: list[Path]) -> None:
    site, home = build.site(), environment.home()
    brought = [*(site / "torch" / "lib").glob("*.so*"), *(site / "torch_npu").rglob("*.so")]
    names = stubs.linked(extension, [*brought, home / "lib64" / "libascendcl.so"])
    jumps = [
        f'asm(".globl {old}\\n.type {old},@function\\n{old}: jmp {new}@PLT");'
        for old, new in RENAMED.items()
        if old in names
    ]
    pointers = stubs.returns_pointer(site / "torch_npu" / "include" / "third_party")
    (out / "stubs.cpp").write_text("\n".join([*jumps, stubs.source(names - set(RENAMED), pointers)]))
    links = [f"-L{home}/lib64", "-lascendcl", f"-L{site}/torch/lib", "-ltorch_cpu", "-lc10"]
    own = out / "libhost_extension.so"
    library.run("g++", "-shared", "-fPIC", "-w", f"-Wl,-soname,{own.name}", out / "stubs.cpp", *links, "-o", own)
    linked = "".join(library.run("readelf", "-d", path) for path in extension)
    there = {path.name for path in [*extension, *brought, *(home / "lib64").glob("*.so")]}
    for name in set(re.findall(r"NEEDED.*\[(lib[A-Za-z_]+\.so)\]", linked)) - there:
        empty = ["-xc", "/dev/null", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", f"-L{out}", "-lhost_extension"]
        library.run("gcc", "-shared", "-fPIC", *empty, "-o", out / name)
