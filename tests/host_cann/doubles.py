"""Doubles of the vendors' rotary operators: the formula in fp32, with each operator's own layout and documented limits.

They are not the real operators. They round once where the real ones may round more often, so their results show that a
caller hands over the right tensors and takes the right ones back, not what an NPU would compute to the last bit. What
the documentation excludes raises ``ValueError`` naming the operator and the limit.

Sources of the limits: torch_npu's own operator documentation for Atlas A2 and A3 (``npu_rotary_mul``,
``npu_apply_rotary_pos_emb``, ``npu_mrope``) and the checks in vllm-ascend's custom operator. ``_npu_rotary_embedding``
has no public documentation of limits; vllm-ascend hands it any even size.
"""

import torch

from .operators import on_device

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def require(condition: bool, operator: str, limit: str) -> None:
    if not condition:
        raise ValueError(f"{operator} (host CANN double): {limit}")


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_neox_style: bool) -> torch.Tensor:
    """Rotate the whole last axis of ``x`` by half-width ``cos`` and ``sin``, in fp32, rounded once."""
    wide = x.float()
    x1, x2 = wide.chunk(2, -1) if is_neox_style else (wide[..., 0::2], wide[..., 1::2])
    y1, y2 = x1 * cos.float() - x2 * sin.float(), x2 * cos.float() + x1 * sin.float()
    both = torch.cat((y1, y2), -1) if is_neox_style else torch.stack((y1, y2), -1).flatten(-2)
    return both.to(x.dtype)


def partly_rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_neox_style: bool) -> torch.Tensor:
    rotary_dim = 2 * cos.shape[-1]
    return torch.cat((rotated(x[..., :rotary_dim], cos, sin, is_neox_style), x[..., rotary_dim:]), -1)


def rotary_mul(
    x: torch.Tensor, r1: torch.Tensor, r2: torch.Tensor, rotary_mode: str = "half", rotate: torch.Tensor | None = None
) -> torch.Tensor:
    name = "npu_rotary_mul"
    shape = tuple(x.shape)
    require(x.dim() == 4 and shape[-1] % 2 == 0 and shape[-1] < 896, name, f"4-d, even last axis < 896; got {shape}")
    require(x.dtype in FLOATS, name, f"dtype {x.dtype}")
    require(rotary_mode in ("half", "interleave") and rotate is None, name, f"mode {rotary_mode!r}, no matrix")
    wide = x.float()
    if rotary_mode == "half":
        x1, x2 = wide.chunk(2, -1)
        turned = torch.cat((-x2, x1), -1)
    else:
        turned = torch.stack((-wide[..., 1::2], wide[..., 0::2]), -1).flatten(-2)
    return (r1.float() * wide + r2.float() * turned).to(x.dtype)


def apply_rotary_pos_emb(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "BSND",
    rotary_mode: str = "half",
) -> tuple[torch.Tensor, torch.Tensor]:
    name = "npu_apply_rotary_pos_emb"
    dims = {"BSND": 4, "TND": 3}
    require(layout in dims and query.dim() == dims[layout], name, f"layout {layout!r} with {query.dim()}-d query")
    require(rotary_mode == "half", name, f"mode {rotary_mode!r}: 'half' only")
    require(len({t.dtype for t in (query, key, cos, sin)}) == 1 and query.dtype in FLOATS, name, "one dtype")
    require(query.numel() > 0, name, "no empty tensors")
    require(
        all(t.shape[-1] in (64, 128) for t in (query, key, cos, sin)),
        name,
        f"last axis 64 or 128; got {query.shape[-1]} and {cos.shape[-1]}",
    )
    require(cos.shape[-2] == 1, name, "one head of cos and sin")
    for x in (query, key):
        x.copy_(
            rotary_mul(
                x if x.dim() == 4 else x[None], cos if x.dim() == 4 else cos[None], sin if x.dim() == 4 else sin[None]
            ).view_as(x)
        )
    return query, key


def by_section(angles: torch.Tensor, sections: list[int], cache_mode: str) -> torch.Tensor:
    """``[len(sections), num_tokens, rotary_dim / 2]``, cosines or sines by each kind of position, to those of a token:
    runs of ``sections`` lanes from each in turn, or every third lane from the second and the third ("interleave")."""
    if cache_mode == "default":
        return torch.cat([part[i] for i, part in enumerate(angles.split(sections, -1))], -1)
    # The documentation's formula ends both strides at the second section's length, and lists equal ones only.
    known = cache_mode == "interleave" and len(sections) == 3 and sections[1] == sections[2]
    require(known, "npu_mrope", f"cache mode {cache_mode!r} with sections {sections}")
    mixed = angles[0].clone()
    for i in (1, 2):
        mixed[:, i : 3 * sections[1] : 3] = angles[i, :, i : 3 * sections[1] : 3]
    return mixed


def mrope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    *,
    mrope_section: list[int] | None = None,
    rotary_mode: str = "half",
    cache_mode: str = "default",
) -> tuple[torch.Tensor, torch.Tensor]:
    name = "npu_mrope"
    rotary_dim = cos_sin_cache.shape[-1]
    sections = mrope_section or [0, 0, 0]
    unit = 16 if query.dtype == torch.float32 else 32
    require(query.dim() == key.dim() == cos_sin_cache.dim() == 2, name, "query, key and cache are 2-d")
    require(query.dtype in FLOATS and rotary_dim % unit == 0, name, f"rotary_dim {rotary_dim} a multiple of {unit}")
    require(head_size % unit == 0 and rotary_dim <= head_size, name, f"head_size {head_size} a multiple of {unit}")
    require(rotary_mode in ("half", "interleave"), name, f"rotary mode {rotary_mode!r}")
    require(bool((positions < cos_sin_cache.shape[0]).all()), name, "positions beyond the cache")
    cos, sin = cos_sin_cache[positions].chunk(2, -1)
    if positions.dim() == 2:
        require(sum(sections) == rotary_dim // 2 and len(sections) == len(positions), name, f"sections {sections}")
        cos, sin = (by_section(c, sections, cache_mode) for c in (cos, sin))
    else:
        require(not any(sections) and cache_mode == "default", name, f"sections {sections}, cache mode {cache_mode!r}")
    neox = rotary_mode == "half"
    rotated, rotated_key = (
        partly_rotated(x.unflatten(-1, (-1, head_size)), cos[:, None], sin[:, None], neox).flatten(-2)
        for x in (query, key)
    )
    return rotated, rotated_key


def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
) -> None:
    """In place, as ``torch_npu._npu_rotary_embedding``: ``[num_tokens, num_heads * head_size]``."""
    require(query.is_contiguous() and key.is_contiguous(), "_npu_rotary_embedding", "contiguous query and key")
    cos, sin = cos_sin_cache[positions.flatten()].chunk(2, -1)
    for x in (query, key):
        heads = x.view(cos.shape[0], -1, head_size)
        heads.copy_(partly_rotated(heads, cos[:, None], sin[:, None], is_neox_style))


def custom_rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """vllm-ascend's ``_C_ascend.rotary_embedding``."""
    require(is_neox, "_C_ascend.rotary_embedding", "neox=false is not supported")
    require(head_size % 32 == 0, "_C_ascend.rotary_embedding", f"head_size {head_size} a multiple of 32")
    query, key = query.contiguous(), key.contiguous()
    rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox)
    return query, key


# vllm-ascend's compiled extension brings this schema; where only its Python files are used, it is declared here.
CUSTOM_SCHEMA = (
    "rotary_embedding(Tensor positions, Tensor! query, Tensor! key, int head_size, Tensor cos_sin_cache, "
    "bool is_neox) -> (Tensor query, Tensor key)"
)
_custom: list[torch.library.Library] = []


def install_custom() -> None:
    """Define ``torch.ops._C_ascend.rotary_embedding`` as its double. Once per process."""
    if _custom:
        return
    library = torch.library.Library("_C_ascend", "FRAGMENT")
    _custom.append(library)
    if not torch._C._dispatch_has_kernel("_C_ascend::rotary_embedding"):
        library.define(CUSTOM_SCHEMA)
    library.impl("rotary_embedding", on_device(custom_rotary_embedding), "PrivateUse1", allow_override=True)


def rms_norm(x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> tuple[torch.Tensor, torch.Tensor]:
    """A norm that vllm-ascend's fusion of norms and rotary embedding looks for in a graph."""
    wide = x.float()
    rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * rstd * gamma.float()).to(x.dtype), rstd


DOUBLES = {
    "npu::npu_rms_norm": rms_norm,
    "npu::npu_rotary_mul": rotary_mul,
    "npu::npu_apply_rotary_pos_emb": apply_rotary_pos_emb,
    "npu::npu_mrope": mrope,
    "atb::_npu_rotary_embedding": rotary_embedding,
}
