"""Doubles of the operators of a mixture of experts: which experts a token goes to, the way there, and back.

Formulas in fp32, rounded once. Limits: no quantisation, no dropped tokens, all experts on this device; anything else
raises ``ValueError``, naming the operator.
"""

from typing import Any

import torch

from .doubles import require


def gating_top_k(
    x: torch.Tensor,
    k: int,
    *,
    bias: torch.Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``norm_type``: 0 for softmax, 1 for sigmoid, whose weights are made to add up to one. The bias chooses experts
    and does not weigh them."""
    require(group_count == 1, "npu_moe_gating_top_k", f"{group_count} groups of experts")
    require(norm_type in (0, 1), "npu_moe_gating_top_k", f"norm type {norm_type}")
    scores = x.float().softmax(-1) if norm_type == 0 else x.float().sigmoid()
    chosen = (scores if bias is None else scores + bias.float()).topk(k, -1).indices
    weights = scores.gather(-1, chosen)
    if norm_type == 1 or renorm:
        weights = weights / (weights.sum(-1, keepdim=True) + eps)
    return (weights * routed_scaling_factor).to(x.dtype), chosen.int(), scores if out_flag else torch.zeros(0)


def custom_gating_top_k(
    x: torch.Tensor,
    k: int,
    k_group: int,
    group_count: int,
    group_select_mode: int,
    renorm: int,
    norm_type: int,
    out_flag: bool,
    routed_scaling_factor: float,
    eps: float,
    bias_opt: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """vllm-ascend's own operator, which takes the same arguments by position."""
    named: dict[str, Any] = {
        "k_group": k_group,
        "group_count": group_count,
        "group_select_mode": group_select_mode,
        "renorm": renorm,
    }
    named |= {"norm_type": norm_type, "out_flag": out_flag, "eps": eps}
    return gating_top_k(x, k, bias=bias_opt, routed_scaling_factor=routed_scaling_factor, **named)


def init_routing(
    x: torch.Tensor,
    expert_idx: torch.Tensor,
    *,
    expert_num: int = -1,
    drop_pad_mode: int = 0,
    expert_tokens_num_type: int = 0,
    quant_mode: int = -1,
    active_expert_range: list[int] = (),  # type: ignore[assignment]
    row_idx_type: int = 0,
    **rest: object,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens sorted by expert; the new place of each pair of token and expert; the number of tokens of each expert."""
    plain = (drop_pad_mode, quant_mode, expert_tokens_num_type, row_idx_type) == (0, -1, 1, 0)
    everyone = list(active_expert_range or (0, expert_num)) == [0, expert_num]
    require(plain and everyone, "npu_moe_init_routing_v2", "all tokens to all experts, counted, not quantised")
    flat = expert_idx.flatten().long()
    order = flat.argsort(stable=True)
    places = torch.empty_like(flat)
    places[order] = torch.arange(len(flat))
    counts = torch.bincount(flat, minlength=expert_num)
    return x[order // expert_idx.shape[1]], places.int(), counts, torch.zeros(0)


def grouped_matmul(
    x: list[torch.Tensor],
    weight: list[torch.Tensor],
    *,
    bias: list[torch.Tensor] | None = None,
    split_item: int = 0,
    group_type: int | None = None,
    group_list: torch.Tensor | None = None,
    group_list_type: int = 0,
    **rest: object,
) -> list[torch.Tensor]:
    """Multiply each group of rows by its expert's matrix."""
    unknown = {k: v for k, v in rest.items() if v is not None and v != [] and k != "act_type"}
    plain = split_item in (2, 3) and group_type == 0 and len(x) == len(weight) == 1 and not bias
    require(plain and not unknown, "npu_grouped_matmul", f"one tensor, groups of rows, no bias; got {unknown}")
    ends = (group_list.cumsum(0) if group_list_type == 1 else group_list).tolist()
    out, first = torch.zeros(len(x[0]), weight[0].shape[-1], dtype=x[0].dtype), 0
    for matrix, end in zip(weight[0], ends, strict=True):
        out[first:end] = (x[0][first:end].float() @ matrix.float()).to(out.dtype)
        first = end
    return [out]


def token_unpermute(
    permuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    probs: torch.Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> torch.Tensor:
    """The weighted sum of each token's results from its experts."""
    require(not padded_mode, "npu_moe_token_unpermute", "no padding")
    require(probs is not None, "npu_moe_token_unpermute", "weights")
    rows = permuted_tokens.float()[sorted_indices.long()].view(*probs.shape, permuted_tokens.shape[-1])
    return (rows * probs.float()[..., None]).sum(1).to(permuted_tokens.dtype)


DOUBLES = {
    "npu::npu_moe_gating_top_k": gating_top_k,
    "npu::npu_moe_init_routing_v2": init_routing,
    "npu::npu_grouped_matmul": grouped_matmul,
    "npu::npu_moe_token_unpermute": token_unpermute,
}
# vllm-ascend's own, and how its extension declares them, for releases whose extension does not load.
SCHEMAS = (
    "moe_gating_top_k(Tensor x, int k, int k_group, int group_count, int group_select_mode, int renorm, int norm_type, "
    "bool out_flag, float routed_scaling_factor, float eps, Tensor? bias_opt=None) "
    "-> (Tensor y, Tensor expert_idx, Tensor out)",
    "npu_moe_init_routing_custom(Tensor x, Tensor expert_idx, *, Tensor? scale=None, Tensor? offset=None, "
    "int active_num=-1, int expert_capacity=-1, int expert_num=-1, int drop_pad_mode=0, int expert_tokens_num_type=0, "
    "bool expert_tokens_num_flag=False, int quant_mode=0, int[2] active_expert_range=[], int row_idx_type=0) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
CUSTOM = {"moe_gating_top_k": custom_gating_top_k, "npu_moe_init_routing_custom": init_routing}
