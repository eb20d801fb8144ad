"""The vendor's own samples of Ascend C, whose times it measured on an A2 of 48 vector cores, as programs.

asc-devkit, examples/01_simd_cpp_api/05_best_practices: ``00_vector_compute/add_high_performance`` adds two tensors of
8192 x 8192 halves; ``04_memory_access/data_copy`` loads one of 12288 x 12288. Their loops were read, and written down
here as what a core is given in the same order; none of their code is here. The times are of the cores (``aiv_time``, or
that of the load pipe where the README has no other), without the start.
"""

from scripts.model_ascend.handmade import Program

CORES = 48


def add(length: int, times: int, buffers: int = 1) -> Program:
    """``times`` rounds: two loads of ``length`` halves, an addition, a store; buffers in turn, if there are two."""
    program = Program()
    for turn in range(times):
        event = turn % buffers
        if turn >= buffers:
            program.wait_flag("V", "MTE2", event)
        for operand in range(2):
            program.load(2 * length, address=512 * operand)
        program.set_flag("MTE2", "V", event).wait_flag("MTE2", "V", event)
        if turn >= buffers:
            program.wait_flag("MTE3", "V", event)
        program.vector(-(-length // 128), "VADD.f16")
        program.set_flag("V", "MTE2", event).set_flag("V", "MTE3", event).wait_flag("V", "MTE3", event)
        program.store(2 * length).set_flag("MTE3", "V", event)
    return program


def copy(rows: int, columns: int, width: int, times: int) -> Program:
    """``times`` loads of tiles of a tensor of halves whose rows have ``width`` of them."""
    program = Program()
    for turn in range(times):
        program.load(2 * columns, rows, 2 * width, address=2 * columns * turn % (2 * width))
    return program
