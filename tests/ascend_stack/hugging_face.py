"""Multimodal models rotated by Hugging Face's own classes: ``python -m tests.ascend_stack.hugging_face FILE``.

A witness that shares no code with vLLM: the classes compute their own cosines in float32 from the model's
configuration, and are imported from whichever transformers is installed. The stacks' transformers (4.57) lacks the
newer models, so the tests also ask the one of the ``vllm`` environment, in a process of its own.
"""

import importlib
import sys
from typing import Any

from tests.ascend_stack.multimodal import BASE, MODELS, Model, inputs

Answers = dict[tuple[str, str], tuple[Any, Any]]  # by model and request: query and key, float32


def rotated(torch: Any, model: Model, request: str) -> tuple[Any, Any]:
    """Query and key of ``multimodal.inputs``, rotated.

    Raises:
        ModuleNotFoundError: the installed transformers has no such model.
    """
    folder, name = model.hugging_face.split()
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    kind = name.removesuffix("RotaryEmbedding").removesuffix("Text")
    config = getattr(
        importlib.import_module(f"transformers.models.{folder}.configuration_{folder}"), f"{kind}TextConfig"
    )()
    partial = model.rotary_dim / model.head_size
    config.head_dim, config.rope_theta, config.partial_rotary_factor = model.head_size, BASE, partial
    parameters = {"rope_theta": BASE, "partial_rotary_factor": partial, "mrope_section": model.section}
    config.rope_scaling = config.rope_parameters = {"rope_type": "default", **parameters}  # before 5.0, and since
    positions, *tensors = inputs(torch, model, request)
    query, key = (x.float().unflatten(-1, (-1, model.head_size)).transpose(0, 1)[None] for x in tensors)
    cos, sin = getattr(module, name)(config)(query, positions.expand(3, -1)[:, None])
    if turn := getattr(module, "apply_multimodal_rotary_pos_emb", None):  # before 5.0
        both = turn(query, key, cos, sin, model.section)
    else:
        both = module.apply_rotary_pos_emb(query, key, cos, sin)
    query, key = (x[0].transpose(0, 1).flatten(1) for x in both)
    return query, key


def answers() -> Answers:
    """All that the installed transformers has."""
    import torch

    found = {}
    for name, model in MODELS.items():
        for request in ("image", "text") if model.hugging_face else ():
            try:
                found[name, request] = rotated(torch, model, request)
            except ModuleNotFoundError:
                continue
    return found


if __name__ == "__main__":
    import torch

    torch.save(answers(), sys.argv[1])
