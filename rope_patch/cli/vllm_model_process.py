"""A process that builds the model that a ``config.json`` names with vLLM's own code, and says how it rotates.

The model is on the meta device: no weights, no memory of a device. vLLM's platform is its CPU's, whatever is here, so
no device is initialised. Once everything is imported, and before the configuration is read, the process gives up the
network, other processes and all but ``MORE_MEMORY``. ``vllm_model.py`` starts it and sets its variables.

    python -c "from rope_patch.cli.vllm_model_process import main; main()" FOLDER RANKS

It prints ``READY`` when it is, and then one JSON object: ``rows``, ``bare`` and ``others``, or ``error``.
"""

import contextlib
import inspect
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from rope_patch.cli import vllm_model_rows

READY = "ready"
MORE_MEMORY = 2**30  # bytes, beyond what the imports took
REFUSED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
looked_at: list[str] = []  # the errors of looking at models' classes


def main() -> None:
    folder, ranks = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):  # vLLM and its packages print there
        os.dup2(nowhere, stream)
    try:
        prepare()
    except BaseException as error:
        print(json.dumps({"error": said(error)}), file=answers)
        answers.flush()
        os._exit(0)
    print(READY, file=answers, flush=True)
    give_up()
    print(json.dumps(answered(folder, int(ranks))), file=answers, flush=True)
    os._exit(0)  # nothing that has been built needs an end


def prepare() -> None:
    """Import what builds a model, with the platform of vLLM's CPU, and have rotary embeddings keep their arguments."""
    import torch
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    backend = CpuPlatform.get_attn_backend_cls.__func__

    def some_backend(cls: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            return backend(cls, *arguments, **keywords)
        except NotImplementedError:  # of latent or sparse attention
            return "rope_patch.cli.weightless.NoAttention"

    CpuPlatform.get_attn_backend_cls = classmethod(some_backend)
    vllm.platforms._current_platform = CpuPlatform()
    import vllm.engine.arg_utils
    import vllm.model_executor.model_loader.utils
    from vllm.model_executor.custom_op import CustomOp
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = _here
    for base in (CustomOp, torch.nn.Module):  # LongRoPE's class is not a CustomOp
        base.__new__ = _keeping(base.__new__)  # type: ignore[method-assign]


def _keeping(make: Any) -> Any:
    """A ``__new__`` that keeps a rotary embedding's arguments in the instance."""

    def made(cls: Any, *arguments: Any, **keywords: Any) -> Any:
        instance = object.__new__(cls) if make is object.__new__ else make(cls, *arguments, **keywords)
        if "rotary" in cls.__name__.lower() and (arguments or keywords):
            with contextlib.suppress(TypeError):  # other arguments than it takes: its __init__ raises
                instance.__dict__[vllm_model_rows.MADE] = (cls, bound(cls, arguments, keywords))
        return instance

    return made


def _here(function: Any) -> Any:
    """vLLM looks at a model's class in another process, lest a CUDA device is initialised. Here is none."""
    try:
        return function()
    except Exception as error:  # which vLLM logs, and then says that it "failed to be inspected"
        looked_at.append(said(error))
        raise


def bound(cls: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name."""
    signature = inspect.signature(cls.__init__)
    found = dict(signature.bind(None, *arguments, **keywords).arguments)
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    for name in [name for name in found if kinds[name] is inspect.Parameter.VAR_KEYWORD]:
        found |= found.pop(name)
    return dict(list(found.items())[1:])  # without self


def give_up() -> None:
    """From here on: little more memory, no network, no other process, and no waiting."""
    with open("/proc/self/status") as status:
        taken = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MORE_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def refuse(event: str, arguments: object) -> None:
        if event.startswith(REFUSED):
            raise PermissionError(f"{event} is refused while a config.json is read")

    sys.addaudithook(refuse)
    # vLLM reads a configuration that it cannot read again two seconds later. Nothing changes it meanwhile.
    time.sleep = lambda seconds: None


def answered(folder: str, ranks: int) -> dict[str, Any]:
    """What the model of ``folder`` rotates by, or why vLLM does not build it."""
    try:
        with _built(folder, ranks) as (model, config):
            return vllm_model_rows.described(model, config)
    except BaseException as error:  # whatever a model's code raises; it may end the process
        return {"error": "; ".join([*looked_at, said(error)])}


def said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic's first line says of which class it is, and the third what is wrong.
    text = " ".join(lines[:3]) if lines else ""
    return f"{type(error).__name__}: {text[:240]}".rstrip(": ")


@contextlib.contextmanager
def _built(folder: str, ranks: int) -> Iterator[tuple[Any, Any]]:
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model

    from rope_patch.cli.weightless import Weightless

    config: Any = EngineArgs(
        model=folder, skip_tokenizer_init=True, load_format="dummy", enforce_eager=True, dtype="bfloat16"
    ).create_engine_config()
    with tempfile.TemporaryDirectory() as meeting, set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{meeting}/meet", 0, backend="gloo")
            initialize_model_parallel(1)
        # Of N ranks only this one exists. Its layers ask these two how many there are, and divide by that.
        parallel_state._TP.world_size = ranks
        config.parallel_config.tensor_parallel_size = ranks
        with Weightless():
            yield initialize_model(vllm_config=config), config
