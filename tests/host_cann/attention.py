"""Doubles of attention over a paged cache, and of the operators that write that cache.

Causal attention by its formula in fp32, one sequence after another. Limits: tokens of all sequences behind one another
("TND"), blocks of keys and values as ``[num_blocks, block_size, num_kv_heads, head_size]``, no quantisation, no sinks,
no tree masks: any other argument raises ``ValueError``, naming itself.
"""

import torch

from .doubles import require

HOW = frozenset({"inner_precise", "workspace"})  # arguments that do not change the result
FAR = 2**31 - 1  # no window


def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_indices: torch.Tensor,
) -> None:
    """Write each token into its slot. Padding tokens have negative slots and are not written."""
    slots = slot_indices.long()
    require(len(slots) <= len(key), "_npu_reshape_and_cache", f"{len(slots)} slots for {len(key)} tokens")
    taken = slots >= 0
    for new, cache in ((key, key_cache), (value, value_cache)):
        heads = cache.shape[-2:]
        cache.view(-1, *heads)[slots[taken]] = new[: len(slots)][taken].view(-1, *heads).to(cache.dtype)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one sequence, ``[num_tokens, num_heads, head_size]``, with its last tokens as queries; and the
    logarithm of each softmax's denominator, ``[num_heads, num_tokens]``."""
    key, value = (x.float().repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = torch.einsum("nhd,mhd->hnm", query.float(), key) * scale
    if causal:
        places = torch.arange(len(query))[:, None] + len(key) - len(query)
        scores.masked_fill_(torch.arange(len(key)) > places, float("-inf"))
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), value), scores.logsumexp(-1)


def paged(cache: torch.Tensor, blocks: torch.Tensor, length: int, num_kv_heads: int) -> torch.Tensor:
    """The first ``length`` tokens of the sequence that is stored in ``blocks``."""
    rows = cache.reshape(*cache.shape[:2], num_kv_heads, -1)
    return rows[blocks[: -(-length // cache.shape[1])].long()].flatten(0, 1)[:length]


def fused_infer_attention_score(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    num_heads: int = 1,
    scale: float = 1.0,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    atten_mask: torch.Tensor | None = None,
    actual_seq_lengths: list[int] | None = None,
    actual_seq_lengths_kv: list[int] | None = None,
    block_table: torch.Tensor | None = None,
    block_size: int = 0,
    sparse_mode: int = 0,
    pre_tokens: int = FAR,
    next_tokens: int = FAR,
    softmax_lse_flag: bool = False,
    **rest: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    name = "npu_fused_infer_attention_score"
    unknown = {k: v for k, v in rest.items() if v is not None and k not in HOW}
    require(not unknown, name, f"arguments {unknown}")
    require(input_layout == "TND" and sparse_mode in (0, 3), name, f"layout {input_layout!r}, mode {sparse_mode}")
    require(pre_tokens == next_tokens == FAR, name, "no window")
    require(actual_seq_lengths is not None and actual_seq_lengths_kv is not None, name, "lengths of both")
    require(sparse_mode == 3 or atten_mask is None, name, "a mask of its own")
    num_kv_heads = num_key_value_heads or num_heads
    out = torch.zeros_like(query)
    log_sums = torch.zeros(len(query), num_heads, 1)
    first = first_key = 0
    for i, (end, keys) in enumerate(zip(actual_seq_lengths, actual_seq_lengths_kv, strict=False)):
        if block_table is None:  # its lengths are sums too
            both = [x[first_key : int(keys)].unflatten(-1, (num_kv_heads, -1)) if x.dim() == 2 else x[first_key:keys]
                    for x in (key, value)]  # fmt: skip
            first_key = int(keys)
        else:
            both = [paged(x, block_table[i], int(keys), num_kv_heads) for x in (key, value)]
        if first < end and len(both[0]):
            queries = query[first:end].reshape(end - first, num_heads, -1)
            result, log_sum = attend(queries, *both, scale, causal=sparse_mode == 3)
            out[first:end] = result.reshape(out[first:end].shape).to(out.dtype)
            log_sums[first:end, :, 0] = log_sum.T
        first = end
    return out, log_sums if softmax_lse_flag else torch.zeros(1)


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    workspace: torch.Tensor | None = None,
) -> None:
    """Decoding: the query is the last token of each sequence."""
    for i, length in enumerate(context_lens.tolist()):
        both = [paged(cache, block_table[i], length, num_kv_heads) for cache in (key_cache, value_cache)]
        out[i] = attend(query[i][None], *both, scale_value)[0][0].to(out.dtype)


def flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    seq_len: torch.Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Whole prompts: queries and keys are of the same tokens."""
    first = 0
    for length in seq_len.tolist():
        tokens = slice(first, first + length)
        heads = ((query, num_heads), (key, num_kv_heads), (value, num_kv_heads))
        result, _ = attend(*(x[tokens].reshape(length, h, -1) for x, h in heads), scale_value)
        out[tokens] = result.reshape(out[tokens].shape).to(out.dtype)
        first += length


DOUBLES = {
    "npu::npu_fused_infer_attention_score": fused_infer_attention_score,
    "atb::_npu_reshape_and_cache": reshape_and_cache,
    "atb::_npu_paged_attention": paged_attention,
    "atb::_npu_flash_attention": flash_attention,
}
