"""The contract of norm and rotation: serve a call, or say that the original must."""

from rope_patch.kernels.launch import ALIGNMENT
from rope_patch.operators.arguments import Unsupported
from rope_patch.operators.contract import hand_back
from rope_patch.operators.norm_arguments import parse
from rope_patch.operators.norm_inputs import Angles, NormRotation, Tensors
from rope_patch.serving import first_call, layouts
from rope_patch.serving.failures import MayHaveStarted, NotStarted
from rope_patch.serving.memory import LOWEST


def serve(tensors: Tensors, angles: Angles, asked: NormRotation) -> bool:
    """Write the results. False means that the original must write them; the reason is already counted.

    For plain tensors, as they are below torch's dispatcher. Nothing that is read is written, so the original may
    compute everything again, whatever has happened.
    """
    try:
        return _serve(tensors, angles, asked)
    except (MayHaveStarted, NotStarted):
        return False  # and counted


def _serve(tensors: Tensors, angles: Angles, asked: NormRotation) -> bool:
    """By the cached launch of the call's layout: all that a launch depends on, except addresses. Else by a new one."""
    given = (*tensors, *angles)
    addresses = tuple([None if one is None else one.data_ptr() for one in given])
    layout: layouts.Layout = (
        asked,
        tuple([None if one is None else (one.shape, one.stride(), one.dtype, one.get_device()) for one in given]),
        tuple([at and at % ALIGNMENT for at in addresses]),
    )
    last, cached = layouts.last
    if layout != last:
        cached = layouts.look_up(layout)
    # What else ``memory.py`` asks it asked when the layout was new.
    has_memory = all(at is None or at > LOWEST for at in addresses)
    if cached is not None and has_memory and cached((), (), addresses) is not None:
        return True
    call = parse(tensors, angles, asked)
    if isinstance(call, Unsupported):
        hand_back(f"expected {call.expected}")
        return False
    return first_call.serve(call, layout, "fused") is not None
