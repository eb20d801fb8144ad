"""The final program's text, rewritten into MLIR that upstream's passes lower.

Few operations of Ascend's own dialect are left in it: addresses in the unified buffer, flags and barriers between
pipes, the program's number, the mask's mode, a change of element type. They become calls of ``core/``; a flag or barrier says
in which line of the text it stands (its site). All else is upstream's, or calls the vendor's library.
"""

import re

PIPES = {"S": 0, "V": 1, "M": 2, "MTE1": 3, "MTE2": 4, "MTE3": 5, "ALL": 6}
UB_BYTES = 192 << 10
UB = f"memref<{UB_BYTES}xi8>"
CORE = """
  func.func private @core_set_flag(i64, i64, i64, i32)
  func.func private @core_wait_flag(i64, i64, i64, i32)
  func.func private @core_pipe_barrier(i64, i32)
  func.func private @core_set_mask_norm()
  func.func private @hivm_GET_BLOCK_IDX() -> i64
"""
RESULT, VALUE, TYPE = r"(?P<result>%\S+)", r"(?P<value>%\S+)", r"(?P<type>memref<.*>)"


class Unknown(ValueError):
    """The program holds something that is not implemented; the message names it."""


def kernel(hivm: str) -> tuple[str, list[str]]:
    """The name of the device function, and its parameters' types in order."""
    found = re.search(r"func\.func @(\w+)\((.*?)\) attributes \{[^\n]*hacc\.function_kind<DEVICE>[^\n]*", hivm)
    if found is None:
        raise Unknown("a program without a device function")
    if "func_core_type<AIV>" not in found.group():
        raise Unknown("a program that is not for a vector core alone")
    types = re.findall(r"%arg\d+: (memref<\?x\w+|\w+)", found[2])
    return found[1], [kind + ">" if kind.startswith("memref") else kind for kind in types]


def called(hivm: str) -> set[str]:
    """The library functions that it calls."""
    return set(re.findall(r"call @(\w+)\(", hivm))


def rewrite(hivm: str, name: str) -> str:
    """The module; the kernel gets the unified buffer as a new first argument, ``%ub``."""
    lines = [_line(number, _plain(line)) for number, line in enumerate(_without_host_functions(hivm).splitlines(), 1)]
    module = "\n".join(lines)
    if left := re.search(r"\bhivm\.hir\.\w+", module):
        raise Unknown(f"operation {left.group()}")
    return module.replace(f"func.func @{name}(", f"func.func @{name}(%ub: {UB}, ")


def _without_host_functions(hivm: str) -> str:
    """Without what is asked on the host, such as the kind of task; line numbers stay."""
    host = r"  func\.func @\w+\([^\n]*hacc\.function_kind<HOST>.*?\n  \}\n"
    return re.sub(host, lambda found: "\n" * found.group().count("\n"), hivm, flags=re.S)


def _plain(line: str) -> str:
    """The line without attributes and address spaces that upstream does not know."""
    line = re.sub(r", #hivm\.address_space<\w+>", "", line)
    if line.startswith("module"):
        return "module {" + CORE.replace("\n", " ")
    if "func.func" in line:
        declared = line.lstrip().startswith("func.func private")
        line = re.sub(r" attributes \{.*\}(?= \{$|$)", " attributes {llvm.emit_c_interface}" if declared else "", line)
        return re.sub(r" \{(?:hacc|tt)\.[^{}]*\}", "", line)
    line = re.sub(r" \{[^{}\"]*\}(?= :|$)", "", line)  # notes for hivmc behind an operation
    return re.sub(r"^(\s*\}) \{[^{}]*\}$", r"\1", line)  # behind a loop


def _line(n: int, line: str) -> str:
    if "hivm.hir." not in line:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    for pattern, made in OPERATIONS.items():
        if found := re.match(pattern, line.strip()):
            return indent + f"\n{indent}".join(made(n, **found.groupdict()))
    return line


def _pointer_cast(n: int, result: str, value: str, type: str) -> list[str]:
    return [
        f"%at{n} = arith.index_cast {value} : i64 to index",
        f"{result} = memref.view %ub[%at{n}][] : {UB} to {type}",
    ]


def _bitcast(n: int, result: str, value: str, source: str, type: str) -> list[str]:
    """The same bytes as elements of another type of the same width; sizes, strides and offset stay."""
    dims, element, strides, offset = _parts(type)
    if _width(element) != _width(_parts(source)[1]) or len(dims) != len(_parts(source)[0]):
        raise Unknown(f"operation hivm.hir.bitcast from {source} to {type}")
    rank = len(dims)
    kinds = ", ".join(["index"] * (1 + 2 * rank))
    known = [*(size if size != "?" else f"%m{n}#{2 + i}" for i, size in enumerate(dims))]
    steps = [*(stride if stride != "?" else f"%m{n}#{2 + rank + i}" for i, stride in enumerate(strides))]
    begin = offset if offset != "?" else f"%m{n}#1"
    base, flat = f"memref<{_parts(source)[1]}>", f"memref<1x{element}>"
    return [
        f"%m{n}:{2 + 2 * rank} = memref.extract_strided_metadata {value} : {source} -> {base}, {kinds}",
        f"%p{n} = memref.extract_aligned_pointer_as_index {value} : {source} -> index",
        f"%u{n} = memref.extract_aligned_pointer_as_index %ub : {UB} -> index",
        f"%d{n} = arith.subi %p{n}, %u{n} : index",
        f"%f{n} = memref.view %ub[%d{n}][] : {UB} to {flat}",
        f"{result} = memref.reinterpret_cast %f{n} to offset: [{begin}], sizes: [{', '.join(known)}], "
        f"strides: [{', '.join(steps)}] : {flat} to {type}",
    ]


def _parts(kind: str) -> tuple[list[str], str, list[str], str]:
    """A memref type's sizes, element type, strides and offset, as they stand in its text."""
    found = re.fullmatch(r"memref<((?:[\d?]+x)*)(\w+)(?:, strided<\[(.*?)\](?:, offset: ([\d?]+))?>)?>", kind)
    if found is None:
        raise Unknown(f"memref type {kind}")
    dims = found[1].split("x")[:-1]
    contiguous = ["1"]
    for size in reversed(dims[1:]):
        contiguous.insert(0, "?" if "?" in (size, contiguous[0]) else str(int(size) * int(contiguous[0])))
    return dims, found[2], found[3].split(", ") if found[3] else contiguous[: len(dims)], found[4] or "0"


def _width(element: str) -> int:
    return int(re.search(r"\d+", element)[0])


def _flag(n: int, what: str, sets: str, waits: str, event: str) -> list[str]:
    made = []
    if fixed := re.fullmatch(r"<EVENT_ID(\d+)>", event):
        made, event = [f"%e{n} = arith.constant {fixed[1]} : i64"], f"%e{n}"
    made += [f"%a{n} = arith.constant {PIPES[sets]} : i64", f"%b{n} = arith.constant {PIPES[waits]} : i64"]
    made += [f"%s{n} = arith.constant {n} : i32"]
    return [*made, f"func.call @core_{what}_flag(%a{n}, %b{n}, {event}, %s{n}) : (i64, i64, i64, i32) -> ()"]


def _barrier(n: int, pipe: str) -> list[str]:
    made = [f"%a{n} = arith.constant {PIPES[pipe]} : i64", f"%s{n} = arith.constant {n} : i32"]
    return [*made, f"func.call @core_pipe_barrier(%a{n}, %s{n}) : (i64, i32) -> ()"]


OPERATIONS = {
    rf"{RESULT} = hivm\.hir\.pointer_cast\({VALUE}\) : {TYPE}": _pointer_cast,
    rf"{RESULT} = hivm\.hir\.bitcast {VALUE} : (?P<source>memref<.*>) -> {TYPE}": _bitcast,
    r"hivm\.hir\.(?P<what>set|wait)_flag\[<PIPE_(?P<sets>\w+)>, <PIPE_(?P<waits>\w+)>, (?P<event>\S+)\]": _flag,
    r"hivm\.hir\.pipe_barrier\[<PIPE_(?P<pipe>\w+)>\]": _barrier,
    rf"{RESULT} = hivm\.hir\.get_block_idx -> i64": lambda n, result: [
        f"{result} = func.call @hivm_GET_BLOCK_IDX() : () -> i64"
    ],
    r"hivm\.hir\.set_mask_norm": lambda n: ["func.call @core_set_mask_norm() : () -> ()"],
}
