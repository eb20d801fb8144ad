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


def scatter_pa_kv_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    compress_lens: torch.Tensor | None = None,
    compress_seq_offsets: torch.Tensor | None = None,
    seq_lens: torch.Tensor | None = None,
    cache_mode: str | None = "PA_NZ",
) -> None:
    """The same for a cache whose blocks may lie apart from one another, as where keys and values take turns."""
    plain = compress_lens is compress_seq_offsets is seq_lens is None and cache_mode == "Norm"
    require(plain, "npu_scatter_pa_kv_cache", f"nothing compressed, cache mode 'Norm'; got {cache_mode!r}")
    slots = slot_mapping.long()
    require(len(slots) <= len(key), "npu_scatter_pa_kv_cache", f"{len(slots)} slots for {len(key)} tokens")
    taken = slots[slots >= 0]
    for new, cache in ((key, key_cache), (value, value_cache)):
        rows = new[: len(slots)][slots >= 0].view(-1, *cache.shape[-2:]).to(cache.dtype)
        cache[taken // cache.shape[1], taken % cache.shape[1]] = rows


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
            result, log_sum = attend(queries, both[0], both[1], scale, causal=sparse_mode == 3)
            out[first:end] = result.reshape(out[first:end].shape).to(out.dtype)
            log_sums[first:end, :, 0] = log_sum.T
        first = end
    return out, log_sums if softmax_lse_flag else torch.zeros(1)


def fused_infer_attention_score_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    out: list[torch.Tensor],
    softmax_lse_flag: bool = False,
    **named: object,
) -> None:
    require(not softmax_lse_flag, "npu_fused_infer_attention_score.out", "no logarithms of sums")
    out[0].copy_(fused_infer_attention_score(query, key, value, **named)[0].view_as(out[0]))


def fused_infer_attention_score_workspace(query: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
    """The double above needs none."""
    return query.new_empty(1)


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
        keys, values = (paged(cache, block_table[i], length, num_kv_heads) for cache in (key_cache, value_cache))
        out[i] = attend(query[i][None], keys, values, scale_value)[0][0].to(out.dtype)


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
    heads = (num_heads, num_kv_heads, num_kv_heads)
    _whole((query, key, value), heads, scale_value, seq_len.tolist(), out, causal=True)


def flash_attention_unpad(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seq_len: torch.Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Of images: each of its tokens sees all of them."""
    heads = (num_heads, num_kv_heads, num_kv_heads)
    _whole((query, key, value), heads, scale_value, seq_len.tolist(), out, causal=False)


def fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    pse: torch.Tensor | None = None,
    padding_mask: torch.Tensor | None = None,
    atten_mask: torch.Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = FAR,
    next_tockens: int = FAR,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
) -> tuple[object, ...]:
    """Of images, too. Of its results only the first is computed."""
    plain = all(one is None for one in (pse, padding_mask, atten_mask, prefix)) and (keep_prob, inner_precise) == (1, 0)
    require(plain and pre_tockens == next_tockens == FAR, "npu_fusion_attention", "no mask, no window, no dropout")
    ends = [int(end) for end in actual_seq_qlen or ()]
    known = input_layout == "TND" and ends and ends == [int(end) for end in actual_seq_kvlen or ()]
    require(bool(known), "npu_fusion_attention", f"layout {input_layout!r}, the same lengths of queries and keys")
    out = torch.empty_like(query)
    lengths = [end - before for before, end in zip([0, *ends], ends, strict=False)]
    _whole((query, key, value), (head_num,) * 3, scale, lengths, out, causal=False)
    return out, torch.zeros(1), torch.zeros(1), torch.zeros(1), 0, 0, 0


def _whole(
    tensors: tuple[torch.Tensor, ...],
    heads: tuple[int, ...],
    scale: float,
    lengths: list[int],
    out: torch.Tensor,
    causal: bool,
) -> None:
    """Into ``out``: sequences of those lengths behind one another, of which no token is cached."""
    first = 0
    for length in lengths:
        tokens = slice(first, first + length)
        query, key, value = (x[tokens].reshape(length, h, -1) for x, h in zip(tensors, heads, strict=True))
        out[tokens] = attend(query, key, value, scale, causal=causal)[0].reshape(out[tokens].shape).to(out.dtype)
        first += length


DOUBLES = {
    "npu::npu_fused_infer_attention_score": fused_infer_attention_score,
    "npu::npu_fused_infer_attention_score.out": fused_infer_attention_score_out,
    "npu::_npu_fused_infer_attention_score_get_max_workspace": fused_infer_attention_score_workspace,
    "atb::_npu_reshape_and_cache": reshape_and_cache,
    "npu::npu_scatter_pa_kv_cache": scatter_pa_kv_cache,
    "atb::_npu_paged_attention": paged_attention,
    "atb::_npu_flash_attention": flash_attention,
    "atb::_npu_flash_attention_unpad": flash_attention_unpad,
    "npu::npu_fusion_attention": fusion_attention,
}
