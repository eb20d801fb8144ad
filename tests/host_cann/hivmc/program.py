"""The final program's text, rewritten into MLIR that upstream's passes lower.

Few operations of Ascend's own dialect are left in it: addresses in the unified buffer, flags and barriers between
pipes, the program's number, the mask's mode, a change of element type. They become calls of ``core/``; a flag or
barrier says in which line of the text it stands (its site). All else is upstream's, or calls the vendor's library.
"""

import re
from collections.abc import Callable

PIPES = {"S": 0, "V": 1, "M": 2, "MTE1": 3, "MTE2": 4, "MTE3": 5, "ALL": 6}
UB_BYTES = 192 << 10
UB = f"memref<{UB_BYTES}xi8>"
DESCRIPTOR = "!llvm.struct<(ptr, ptr, i64, array<1 x i64>, array<1 x i64>)>"  # what LLVM makes of it
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
    """The line without attributes and address spaces that upstream does not know, and without notes for ``hivmc``."""
    if line.lstrip().startswith("annotation.mark "):
        return ""
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
    """Bytes of the unified buffer from an address on. A memref has two pointers, what was allocated and what is used;
    ``memref.view`` of the whole buffer would leave the first at its beginning. Both are the address here: the library
    takes the one for the other (AscendNPU-IR, EltWise1D.cpp, normalize_vector_last_axis_1d)."""
    places = (("%p", "0"), ("%p", "1"), ("%z", "2"), ("%w", "3, 0"), ("%o", "4, 0"))
    made = [
        f"%u{n} = memref.extract_aligned_pointer_as_index %ub : {UB} -> index",
        f"%v{n} = arith.index_cast %u{n} : index to i64",
        f"%at{n} = arith.addi %v{n}, {value} : i64",
        f"%p{n} = llvm.inttoptr %at{n} : i64 to !llvm.ptr",
        *(f"%{name}{n} = arith.constant {number} : i64" for name, number in (("z", 0), ("w", UB_BYTES), ("o", 1))),
        f"%d{n}_0 = llvm.mlir.undef : {DESCRIPTOR}",
    ]
    for i, (given, place) in enumerate(places):
        made.append(f"%d{n}_{i + 1} = llvm.insertvalue {given}{n}, %d{n}_{i}[{place}] : {DESCRIPTOR}")
    return [
        *made,
        f"%m{n} = builtin.unrealized_conversion_cast %d{n}_{len(places)} : {DESCRIPTOR} to {UB}",
        f"%i{n} = arith.constant 0 : index",
        f"{result} = memref.view %m{n}[%i{n}][] : {UB} to {type}",
    ]


def _bitcast(n: int, result: str, value: str, source: str, type: str) -> list[str]:
    """The same bytes as elements of another type of the same width: what LLVM makes of a memref does not depend on
    their type. Sizes and strides are forgotten meanwhile, or the passes would look through the cast."""
    (rank, old), (same_rank, new) = _parts(source), _parts(type)
    if rank != same_rank or _width(old) != _width(new):
        raise Unknown(f"operation hivm.hir.bitcast from {source} to {type}")
    sizes, strides = "?x" * rank, ", ".join("?" * rank)
    before, after = (f"memref<{sizes}{element}, strided<[{strides}], offset: ?>>" for element in (old, new))
    return [
        f"%b{n} = memref.cast {value} : {source} to {before}",
        f"%c{n} = builtin.unrealized_conversion_cast %b{n} : {before} to {after}",
        f"{result} = memref.cast %c{n} : {after} to {type}",
    ]


def _parts(kind: str) -> tuple[int, str]:
    """A memref type's rank and element type."""
    found = re.match(r"memref<((?:[\d?]+x)*)(\w+)", kind)
    return found[1].count("x"), found[2]


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


OPERATIONS: dict[str, Callable[..., list[str]]] = {
    rf"{RESULT} = hivm\.hir\.pointer_cast\({VALUE}\) : {TYPE}": _pointer_cast,
    rf"{RESULT} = hivm\.hir\.bitcast {VALUE} : (?P<source>memref<.*>) -> {TYPE}": _bitcast,
    r"hivm\.hir\.(?P<what>set|wait)_flag\[<PIPE_(?P<sets>\w+)>, <PIPE_(?P<waits>\w+)>, (?P<event>\S+)\]": _flag,
    r"hivm\.hir\.pipe_barrier\[<PIPE_(?P<pipe>\w+)>\]": _barrier,
    rf"{RESULT} = hivm\.hir\.get_block_idx -> i64": lambda n, result: [
        f"{result} = func.call @hivm_GET_BLOCK_IDX() : () -> i64"
    ],
    r"hivm\.hir\.set_mask_norm": lambda n: ["func.call @core_set_mask_norm() : () -> ()"],
}
