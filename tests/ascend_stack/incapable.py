"""Runs a stack that lacks something, with rope_patch: ``python -m tests.ascend_stack.incapable SITUATION``.

Or "nothing missing". Prints one JSON object: the verdict, what was logged, the largest error of a Llama 3 and a full
rotation, and what vLLM's own check of variables and ``doctor`` say of ours.
"""

import json
import logging
import os
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.ascend_stack import harness
from tests.ascend_stack.models import LLAMA3


def no_triton() -> None:
    """triton-ascend is not installed: ``find_spec`` finds nothing, ``import`` fails."""
    sys.modules["triton"] = None  # type: ignore[assignment]


def mainline_triton() -> None:
    """Mainline triton installed over triton-ascend: it has other back ends, and none of their drivers is active."""
    from triton.backends import backends

    del backends["ascend"]
    driver = SimpleNamespace(is_active=lambda: False)
    backends["amd"] = backends["nvidia"] = SimpleNamespace(driver=driver, compiler=None)


def inactive_driver() -> None:
    """triton-ascend is there, but finds no device."""
    from triton.backends import backends

    backends["ascend"].driver.is_active = lambda: False


def atlas_310p() -> None:
    """A vllm-ascend that was built for Atlas 310P, as its build information says; the host CANN is one too."""
    import vllm_ascend._build_info as built

    built.__device_type__, built.__soc_version__ = "_310P", "ASCEND310P3"


SITUATIONS = {
    "nothing missing": lambda: None,
    "no triton": no_triton,
    "mainline triton": mainline_triton,
    "inactive driver": inactive_driver,
    "310P": atlas_310p,
}


def main(situation: str) -> None:
    SITUATIONS[situation]()
    lines: list[tuple[str, str]] = []
    make = logging.getLogRecordFactory()

    def noting(*arguments: Any, **named: Any) -> logging.LogRecord:  # vLLM removes its loggers' handlers
        record = make(*arguments, **named)
        if record.name == "vllm.rope_patch":
            lines.append((record.levelname, record.getMessage()))
        return record

    logging.setLogRecordFactory(noting)
    import rope_patch

    stack = harness.start()
    errors = {"llama3": error(stack, "llama3", LLAMA3), "default": error(stack, "default", {})}
    status = rope_patch.status()
    found: dict[str, Any] = {
        "capable": status["capable"], "reason": status["reason"], "targets": status["targets"], "errors": errors,
        "calls": status["calls"], "logged": lines, "variables": variables(),
        "fused": {name: harness.is_ours(kernel) for name, kernel in stack.fused.items()},
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def variables() -> dict[str, Any]:
    """What vLLM says that is told to refuse variables that it does not know, and what ``doctor`` says: with ours, with
    one that nobody knows, and with ours where nobody told vLLM their names."""
    from rope_patch.patching import hooks

    ours, known = refused(), foretold()
    with mock.patch.dict(os.environ, VLLM_NOBODYS="1"):
        nobodys = refused()
    hooks.patch.variables.undo()  # as in a process that does not import rope_patch
    return {"refused": [ours, nobodys, refused()], "doctor": [known, foretold()]}


def refused() -> str | None:
    """vLLM's complaint, empty if it has none; None if it does not look for variables that it does not know."""
    import vllm.envs

    validate = getattr(vllm.envs, "validate_environ", None)
    if validate is None:
        return None
    try:
        validate(True)
    except ValueError as complaint:
        return str(complaint)
    return ""


def foretold() -> list[Any]:
    import vllm.envs
    import vllm.platforms

    from rope_patch.cli import doctor

    finding = doctor._variable(vllm.envs, vllm.platforms)
    return [finding.ok, finding.found]


def error(stack: harness.Stack, kind: str, parameters: dict[str, Any]) -> float | str:
    from rope_patch.kernels.shape import Rotation
    from rope_patch.operators.reference import rotate

    torch = stack.torch
    embedding = stack.build(kind, 64, **parameters)
    query = torch.randn(5, 4 * 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    positions = torch.arange(5)
    try:
        rotated = stack.rotate(embedding, positions.npu(), query.npu(), query.npu())
    except Exception as exception:
        return f"{type(exception).__name__}: {exception}"[:300]
    cache = embedding.cos_sin_cache.cpu()
    wanted = rotate(positions, query.unflatten(-1, (-1, 64)), cache, Rotation(64, 64, True)).flatten(-2)
    return max((x.cpu().view_as(wanted).float() - wanted.float()).abs().max().item() for x in rotated)


if __name__ == "__main__":
    main(sys.argv[1])
