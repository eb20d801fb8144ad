"""The order between pipes: every flag and barrier of our programs is needed, or the test says why it is not."""

import re

import numpy as np
import pytest

from rope_patch.kernels.transposed import Transposed
from tests.host_cann.fixture import needs_build
from tests.shapes import SHAPES

pytestmark = needs_build
TILES = 3


def prepared(model: str, dtype: str, num_tokens: int, fresh: bool, compiler: int = -1):
    """Its plan; a program of ours; and a function that runs it, or a changed text of it, on one core, over a few tiles
    and a tail."""
    from tests.ascend_kernels import our_kernel
    from tests.host_cann import bishengir, chips, environment, standalone
    from tests.host_cann.hivmc import __main__ as hivmc
    from tests.host_cann.hivmc import lower

    (shape,) = (s for s in SHAPES if s.model == model)
    made = our_kernel.kernel(shape, num_tokens, fresh, dtype)
    program = bishengir.compile(made.linalg, bishengir.installed()[compiler], chips.current()).program
    if hivmc.needs_library_calls(program):  # where flags and barriers stand is counted in what comes of it
        program = lower.to_calls(program, environment.home() / "ascendnpuir" / "bin" / "bishengir-opt")
    tokens = made.plan.block_tokens * TILES + 1
    item = np.uint16 if our_kernel.ITEM[dtype] == 2 else np.uint32
    qkv = np.zeros(tokens * made.row, item)
    outputs = [np.zeros(tokens * heads * shape.head_size, item) for heads in (shape.num_heads, shape.num_kv_heads)]
    memory = [qkv, qkv[shape.num_heads * shape.head_size :], *(outputs if fresh else ())]
    memory += [np.zeros(64 * shape.rotary_dim, item), np.zeros(tokens, np.int64)]
    in_words = 2 if made.plan.in_words else 1
    strides = [stride // in_words for stride in (made.row, shape.head_size) * 2]
    numbers = (tokens, tokens * made.plan.units, 64, shape.rotary_dim, *strides)
    kernels = {}

    def run(text: str = program) -> None:
        if text not in kernels:
            kernels[text] = standalone.load(text)
        kernels[text].run(1, [*memory, *numbers])

    return made.plan, program, run


def sites_of(program: str) -> dict[int, str]:
    lines = enumerate(program.splitlines(), 1)
    return {n: line.strip() for n, line in lines if re.search(r"hir\.(set_flag|wait_flag|pipe_barrier)", line)}


def fails(run, *sites: int) -> bool:
    from tests.host_cann import standalone, trace

    said = ""
    with trace.ignored(*sites):
        try:
            run()
        except standalone.Failed as failed:
            said = str(failed)
    assert not said or "order: " in said
    return bool(said)


# What tells programs apart: which kernel, how pairs are taken apart, whole heads or parts, narrow rows of cosines, a
# last tile that begins early or is masked (beside the loop's own) or neither (of single tokens), cosines for each head;
# lanes as rows.
# Each once; the compilers, by number, take turns.
KINDS = {
    "tokens halves parts early by head": ("Llama-3.1-8B", "bf16", 8192, True, 2),
    "tokens halves parts masked": ("Llama-3.1-8B", "bf16", 8192, False, 1),
    "tokens halves whole early": ("GLM-4.5 tp8", "bf16", 8192, True, 0),
    "tokens halves whole masked": ("GLM-4.5 tp8", "bf16", 8192, False, 2),
    "tokens halves whole": ("Llama-3.1-8B", "bf16", 64, True, 1),
    "tokens halves parts narrow": ("StableLM-3B", "bf16", 8192, False, 0),
    "tokens halves whole transposed": ("StableLM-3B", "bf16", 8192, True, 1),
    "tokens fp16 words whole early": ("GPT-J", "fp16", 8192, True, 0),
    "tokens bf16 words parts masked": ("GLM-4-9B", "bf16", 8192, False, 1),
    "tokens slices parts": ("ERNIE-4.5", "fp32", 8192, False, 2),
    "heads halves whole": ("Llama-3.1-8B", "bf16", 1, True, 2),
    "heads bf16 words whole": ("GLM-4-9B", "bf16", 1, True, 0),
    "heads slices parts": ("GLM-4-9B", "fp32", 1, False, 1),
}


def kind_of(plan) -> str:
    if isinstance(plan, Transposed):
        return "tokens halves whole transposed"
    last = "narrow" * (not plan.wide_rows) or "early" * plan.overlap or "masked" * (plan.block_tokens > 1)
    parts = ["heads" if plan.splits_tokens else "tokens", plan.pairs, "whole" if plan.whole else "parts", last]
    return " ".join(filter(None, [*parts, "by head" * plan.by_head]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_flag_and_barrier_is_needed_or_said_to_be_spare(kind):
    """Each is left out alone; those that nothing misses are left out together, one more at a time. One that is missed
    only then is covered by others. What can be left out all together is spare, and must be of a kind that explains
    itself: a flag set before there is anything to wait for, a wait after which nothing comes, or a barrier that the
    compiler puts between transfers or vector instructions whose bytes it could not tell apart."""
    plan, program, run = prepared(*KINDS[kind])
    assert kind_of(plan) == kind, "the plan of this shape is of another kind now: choose another shape for it"
    run()
    sites = sites_of(program)
    unmissed = [site for site in sites if not fails(run, site)]
    spare: list[int] = []
    covered = [site for site in unmissed if fails(run, *spare, site) or spare.append(site)]
    needed = len(sites) - len(unmissed)
    print(f"{kind}: of {len(sites)}, {needed} needed, {len(covered)} covered by others, {len(spare)} spare")
    assert needed >= len(sites) // 3
    calls = [n for n, line in enumerate(program.splitlines(), 1) if re.search(r"func\.call @(load|store|copy|v)", line)]
    for site in spare:
        kind = re.search(r"hir\.(\w+)", sites[site])[1]
        before_all, after_a_loop = site < calls[0], "set_flag" not in sites[site]
        assert before_all or after_a_loop or kind == "pipe_barrier" or paired(sites, site, spare), sites[site]


def paired(sites: dict[int, str], site: int, spare: list[int]) -> bool:
    """A flag whose wait is spare is spare itself."""
    what = sites[site].split("[")[1]
    return any(other != site and sites[other].split("[")[1] == what for other in spare)


def test_a_vector_instruction_that_does_not_wait_for_its_transfer_is_named_with_it():
    from tests.host_cann import standalone

    _, program, run = prepared("Llama-3.1-8B", "bf16", 8192, True)
    waits = re.findall(r"hivm\.hir\.wait_flag\[<PIPE_MTE2>, <PIPE_V>, .*\]", program)
    for wait in set(waits):
        program = program.replace(wait, wait.replace("<PIPE_V>", "<PIPE_MTE3>"))
    program = program.replace("set_flag[<PIPE_MTE2>, <PIPE_V>,", "set_flag[<PIPE_MTE2>, <PIPE_MTE3>,")
    said = (
        r"VCONV.* \(pipe V\) reads \d+ bytes at UB \w+, with no flag or barrier after MOV\.OUT\.TO\.UB.* \(pipe MTE2\)"
    )
    with pytest.raises(standalone.Failed, match=said):
        run(program)


def test_a_flag_that_nobody_sets_and_one_that_nobody_waits_for_are_errors():
    from tests.host_cann import standalone

    _, program, run = prepared("Llama-3.1-8B", "bf16", 8192, True)
    (first, *_) = re.findall(r"hivm\.hir\.set_flag\[<PIPE_MTE2>, <PIPE_V>, <EVENT_ID0>\]\n", program)
    with pytest.raises(standalone.Failed, match="pipe V waits for ever: nobody sets the flag MTE2 -> V, event 0"):
        run(program.replace(first, "\n"))
    last = "    hivm.hir.pipe_barrier[<PIPE_ALL>]\n    return"
    assert last in program
    with pytest.raises(standalone.Failed, match="MTE2 -> V, event 0, is still set at the program's end"):
        run(program.replace(last, "    " + first + last))
