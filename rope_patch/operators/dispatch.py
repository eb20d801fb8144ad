"""From vLLM's tensors to a launch: a cached one, or a new one that is then cached.

In eager mode the layers of a model call with the same shapes and strides, so a launch is worked out once for a layout
and cached. A call of a cached layout costs one comparison, the allocation of its outputs, and the kernel's own
launcher. A layout holds everything that a launch depends on except the addresses. Those are read at every call, since
the same tensor object may have got other memory (``tensor.data = other``, ``resize_``).
"""

from torch import Tensor

from rope_patch.kernels.launch import ALIGNMENT
from rope_patch.operators.arguments import Unsupported, parse
from rope_patch.operators.rotation import Rotation
from rope_patch.serving import first_call, first_use, layouts
from rope_patch.serving.cached_launch import Results
from rope_patch.serving.failures import NotStarted
from rope_patch.serving.memory import LOWEST, NO_MEMORY


def dispatch(
    positions: Tensor, query: Tensor, key: Tensor | None, cos_sin_cache: Tensor, rotation: Rotation, always_fresh: bool
) -> Results | Unsupported | None:
    """Rotate plain tensors; arguments as ``contract.serve``'s.

    A strided tensor's output is a new contiguous tensor; a contiguous one is rotated in place, unless ``always_fresh``
    is set. If the call is not served, nothing was done: ``Unsupported`` says what is wrong with the arguments, and the
    caller has to count it; None means that the kernel must not be used, and the reason is already counted.
    """
    try:
        q, c, p = query.data_ptr(), cos_sin_cache.data_ptr(), positions.data_ptr()
        k = None if key is None else key.data_ptr()
    except RuntimeError:  # sparse, or wrapped by a transform such as torch.vmap
        return Unsupported(TypeError, NO_MEMORY)
    low = q | (k or 0) | c | p
    layout: layouts.Layout = (
        query.shape, query.stride(), query.dtype, query.get_device(),
        None if key is None else (key.shape, key.stride(), key.dtype, key.get_device()),
        positions.shape, positions.is_contiguous() or positions.stride(), positions.dtype, positions.get_device(),
        cos_sin_cache.shape, cos_sin_cache.is_contiguous() or cos_sin_cache.stride(),
        cos_sin_cache.dtype, cos_sin_cache.get_device(),
        rotation, always_fresh,
    )  # fmt: skip
    if low % ALIGNMENT:
        layout += (q % ALIGNMENT, (k or 0) % ALIGNMENT, c % ALIGNMENT, p % ALIGNMENT)
    last, cached = layouts.last
    if layout != last:
        cached = layouts.look_up(layout)
    # What else ``memory.py`` asks it asked when the layout was new; each answer takes as long as four addresses.
    if cached is not None and q > LOWEST and c > LOWEST and p > LOWEST and (k is None or k > LOWEST):
        try:
            rotated = cached((query, key), (q, k), (c, p))
        except NotStarted:
            return None
        if rotated is not None:
            return rotated
    call = parse(positions, query, key, cos_sin_cache, rotation, always_fresh)
    if isinstance(call, Unsupported):
        return call
    return first_call.serve(call, layout, "op" if always_fresh else "eager")


def forget() -> None:
    """Forget all cached launches and first-use checks. For tests, and after a kernel cache was cleared."""
    layouts.forget()
    first_use.forget()
