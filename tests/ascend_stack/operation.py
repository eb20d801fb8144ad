"""vllm-ascend's engine in operation, switched and reloaded: ``python -m tests.ascend_stack.operation``.

One GLM-4 in eager mode, patched; after each step the same prompts. Prints one JSON object last, of
``generate.generate``'s answers by step. The steps, in order: ``at first``; ``disabled`` and ``enabled`` in the worker
through its RPC; ``reloaded``, its weights from the checkpoint after they were all set to zero (``zeroed``); ``woken``
from sleep of level 2, which gives back the memory of weights and KV cache, and reloaded, with ``memory``: how many
bytes were free awake, asleep and awake again, and what was lost; ``faulty``: the compiler refuses what it has not
compiled yet, and a form of call that is new comes; ``after``.
"""

import json
import os
import sys
from typing import Any

from tests.ascend_stack import generate, in_worker, machine, sleeping


def zero(worker: Any) -> None:
    for parameter in worker.model_runner.get_model().parameters():
        parameter.data.zero_()


def refuse_new_kernels(worker: Any) -> None:
    """From now on, compiling fails as if the kernel did not fit, whatever other processes have compiled."""
    from rope_patch.operators.rotation import KERNELS

    def refuses(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("ub overflow, requires 1968128 bits while 1572864 bits available!")

    for kernel in KERNELS:
        kernel.function.compile = refuses


def query_alone_in_place(worker: Any) -> None:
    """A call with a contiguous query and a strided key, for which this process has compiled no kernel."""
    for module in in_worker.embeddings(worker):
        before = vars(module).setdefault("_before", module._forward_method)
        module._forward_method = lambda positions, query, key, before=before: before(positions, query.contiguous(), key)


def main() -> None:
    os.environ.update(generate.FIXED)
    machine.prepare()
    llm = generate.engine("GLM-4", "float32", "eager", **sleeping.MODE)
    found = {"at first": generate.generate(llm)}

    def step(name: str, function: Any, *arguments: Any) -> None:
        llm.collective_rpc(function, args=arguments)
        found[name] = generate.generate(llm)

    step("disabled", in_worker.switch, False)
    step("enabled", in_worker.switch, True)
    step("zeroed", zero)
    step("reloaded", sleeping.reload)
    memory = sleeping.sleep_and_wake(llm)
    found["woken"] = generate.generate(llm) | {"memory": memory}
    llm.collective_rpc(refuse_new_kernels)
    step("faulty", query_alone_in_place)
    step("after", in_worker.rotate_by, "as before")
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
