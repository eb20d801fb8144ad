"""Sleep of level 2, which gives back the memory of weights and KV cache, and waking, in vllm-ascend's engine."""

from typing import Any

# For the engine. Sleep mode refuses weights in the NPU's own order.
MODE: dict[str, Any] = {"enable_sleep_mode": True, "additional_config": {"weight_nz_mode": 0}}


def buffers(worker: Any) -> dict[str, Any]:
    return {name: buffer.cpu().clone() for name, buffer in worker.model_runner.get_model().named_buffers()}


def lost_and_kept(worker: Any, before: dict[str, Any]) -> dict[str, bool]:
    """After waking. Memory that is mapped again is full of NaN."""
    after, parameters = buffers(worker), worker.model_runner.get_model().parameters()
    return {
        "weights lost": all(p.isnan().all().item() for p in parameters),
        "buffers kept": len(before) > 0 and all(after[name].equal(before[name]) for name in before),
    }


def free_bytes(worker: Any) -> int:
    import torch

    return int(torch.npu.mem_get_info()[0])


def reload(worker: Any) -> None:
    """Call the model runner's ``reload_weights``, since vllm-ascend's worker has no such method."""
    worker.model_runner.reload_weights()


def sleep_and_wake(llm: Any) -> dict[str, Any]:
    """Then load the weights anew. Returns how many bytes were free before, asleep and after, and what was lost."""

    def ask(function: Any, *arguments: Any) -> Any:
        return llm.collective_rpc(function, args=arguments)[0]

    before, free = ask(buffers), [ask(free_bytes)]
    llm.sleep(level=2)
    free.append(ask(free_bytes))
    llm.wake_up()
    free.append(ask(free_bytes))
    found = ask(lost_and_kept, before)
    ask(reload)
    return {"free bytes": free} | found
