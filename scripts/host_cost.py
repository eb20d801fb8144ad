"""Host time of a call on one token, up to the runtime's launch entry, on the host CANN:

    scripts/ascend.sh python -m scripts.host_cost
    .venvs/stack-0.23.0/bin/python -m tests.host_cann.run python -m scripts.host_cost    # and vLLM's forward_oot

With TRITON_ENABLE_TASKQUEUE=false, launches do not go through torch-npu's task queue. It measures the calling thread's
processor time and the elapsed time, which includes waiting for the queue's thread, and prints medians of rounds. Run it
on an otherwise idle machine, and compare ratios only. The runtime's launch entry returns at once, so the times include
nothing of a driver or an NPU.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import rope_patch  # noqa: F401  before vLLM, so that it is patched where there is one
from tests.ascend_stack import harness
from tests.ascend_stack.models import LLAMA3
from tests.host_cann import discard, fixture

stack = None if harness.missing() else harness.start()
torch = stack.torch if stack else fixture.initialise()

from rope_patch.kernels.launch import device_facts  # noqa: E402
from rope_patch.kernels.planning import make_plan  # noqa: E402
from rope_patch.operators import contract, dispatch, op  # noqa: E402
from rope_patch.operators.arguments import parse  # noqa: E402
from rope_patch.operators.rotation import KERNELS, ROTATIONS  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from rope_patch.serving import first_use  # noqa: E402

CALLS, ROUNDS = 200, 15
CLOCKS = time.thread_time, time.perf_counter
HEADS, KV_HEADS, HEAD_SIZE = 32, 8, 128


def microseconds(works: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """The median time of a call by both clocks. Each round runs all of them, so that load affects all alike."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            torch.npu.synchronize()
            begin = [clock() for clock in CLOCKS]
            for _ in range(CALLS):
                work()
            processor, passed = ((clock() - at) / CALLS * 1e6 for clock, at in zip(CLOCKS, begin, strict=True))
            times[name].append((processor, passed))
    return {name: (median(at[0] for at in found), median(at[1] for at in found)) for name, found in times.items()}


def first_use_ms(two: Any, positions: Any, arguments: tuple[Any, ...]) -> float:
    """Milliseconds of the first call of a signature whose kernels are compiled already; the median of five."""
    times = []
    for _ in range(6):
        dispatch.forget()
        begin = time.thread_time()
        contract.serve(positions, two[0], two[1], *arguments)
        times.append((time.thread_time() - begin) * 1e3)
    return median(times[1:])


def forwards(at_one: Any, q: Any, k: Any, at_two: Any, two: Any) -> dict[str, Callable[[], object]]:
    """Calls of the patched ``forward_oot`` of a Llama-3 embedding, as vLLM's dispatch makes them."""
    if not stack:
        return {}
    embedding = stack.build("llama3", HEAD_SIZE, **LLAMA3)
    return {
        "forward_oot, in place": lambda: embedding.forward_oot(at_one, q, k),
        "forward_oot, fresh": lambda: embedding.forward_oot(at_two, two[0], two[1]),
    }


def own_launcher(call: Any, *outputs: Any) -> Callable[[], object]:
    """A call of nothing but the launcher of the call's kernel: the least that a call can cost."""
    _, trusted = first_use.checked(call)
    assert isinstance(trusted, first_use.Trusted), trusted
    plan = make_plan(KERNELS, call.shape, call.num_tokens, trusted.device)
    launcher, launch = trusted.runners[plan], call.launch(plan, trusted.device)
    addresses = tuple(None if tensor is None else tensor.data_ptr() for tensor in call.memory(*outputs))
    return lambda: launcher.start(launch.programs, 0, (*addresses, *launch.numbers))


@torch.inference_mode()  # as vLLM calls
def main() -> None:
    cache = torch.randn(4096, HEAD_SIZE).bfloat16().npu()
    widths = [HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE]
    one, two = (torch.randn(tokens, sum(widths)).bfloat16().npu().split(widths, -1) for tokens in (1, 2))
    at_one, at_two = torch.zeros(1, dtype=torch.int64).npu(), torch.zeros(2, dtype=torch.int64).npu()
    q, k = one[0].contiguous(), one[1].contiguous()
    numbers = HEAD_SIZE, HEAD_SIZE, True
    arguments = cache, ROTATIONS[numbers]
    device = device_facts(q.device)
    in_place, fresh = parse(at_one, q, k, *arguments), parse(at_two, two[0], two[1], *arguments)
    outputs = two[0].new_empty(two[0].shape), two[1].new_empty(two[1].shape)
    launch = in_place.launch(make_plan(KERNELS, in_place.shape, 1, device), device)
    launch_fresh = fresh.launch(make_plan(KERNELS, fresh.shape, 2, device), device)
    overload = torch.ops.rope_patch.rotary_embedding
    works: dict[str, Callable[[], object]] = {
        "kernel[grid], in place": lambda: launch.on(in_place, None, None),
        "kernel[grid], fresh": lambda: launch_fresh.on(fresh, *outputs),
        **forwards(at_one, q, k, at_two, two),
        "contract.serve, in place": lambda: contract.serve(at_one, q, k, cache, ROTATIONS[numbers]),
        "contract.serve, fresh": lambda: contract.serve(at_two, two[0], two[1], cache, ROTATIONS[numbers]),
        "the op's body": lambda: op._rotary_embedding(at_two, two[0], two[1], cache, *numbers),
        "torch.ops.rope_patch": lambda: overload(at_two, two[0], two[1], cache, *numbers),
        "new_empty": lambda: q.new_empty(q.shape),
    }
    for work in works.values():
        work()
    works["launcher, in place"] = own_launcher(in_place, None, None)
    works["launcher, fresh"] = own_launcher(fresh, *outputs)
    with discard.launches(torch):  # the stand-in's work says nothing about a driver's
        found = microseconds(works)
    assert not ledger.fallbacks(), ledger.fallbacks()
    print(f"first-use check of a signature, compiled before: {first_use_ms(two, at_two, arguments):.0f} ms")
    print(f"{'':24}{'processor':>12}{'passed':>12}   of kernel[grid] by each")
    for name, times in found.items():
        base = found["kernel[grid], in place" if "in place" in name else "kernel[grid], fresh"]
        parts = "".join(f"{us / whole:6.2f}" for us, whole in zip(times, base, strict=True))
        print(f"{name:24}{times[0]:9.1f} us{times[1]:9.1f} us  {parts}")


if __name__ == "__main__":
    main()
