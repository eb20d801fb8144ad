"""Reads the program text that the compiler passes to ``hivmc``: where every buffer is, and for what target."""

import math
import re

BITS = {"i1": 1, "i8": 8, "ui8": 8, "f16": 16, "bf16": 16, "i16": 16, "f32": 32, "i32": 32, "i64": 64}
ADDRESS = re.compile(r"(%\w+) = (?:arith\.constant |llvm\.mlir\.constant\()(\d+) : i64")
BUFFER = re.compile(r"hivm\.hir\.pointer_cast\((.*?)\).* : memref<((?:[\d?]+x)*)(\w+), .*address_space<ub>")


def ub_bytes(program: str) -> int:
    """The end of the highest buffer that a final program has in the unified buffer.

    Raises ``ValueError`` where a buffer's size or address is not in the text: better no number than one too small.
    """
    known: dict[str, int] = {}  # constants of this function, by name
    end = 0
    for line in program.splitlines():
        if "func.func" in line:
            known.clear()
        if found := ADDRESS.search(line):
            known[found[1]] = int(found[2])
        elif found := BUFFER.search(line):
            addresses, dims, element = found[1].split(", "), found[2].split("x")[:-1], found[3]
            try:
                size = -(-math.prod(map(int, dims)) * BITS[element] // 8)
                end = max(end, *(known[address] + size for address in addresses))
            except (KeyError, ValueError):
                raise ValueError(f"cannot tell where this buffer ends: {line.strip()}") from None
    return end


def ub_available(program: str) -> int:
    """Bytes of unified buffer that the target has according to the compiler."""
    return int(re.search(r'"UB_SIZE", (\d+)', program)[1]) // 8


def target(program: str) -> str:
    """The compiler's description of the target, without numbers of cores."""
    return re.sub(r'"\w+_CORE_COUNT", \d+', "", re.search(r"target_system_spec<.*?>>>", program)[0])


def name(program: str) -> str:
    """The kernel's name, as its source has it."""
    return re.search(r"func\.func @(\w+?)(_infer_task_type_function)?\(", program)[1]
