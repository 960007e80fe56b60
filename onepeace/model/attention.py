"""Attention: the one place that builds the mask and picks the kernel.

B: batch, H: heads, T: tokens, K: width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2**21  # logits that are computed at a time on a CPU: with them its cache is full
SHORT = 64  # tokens; below this the time goes into calls, and the fused kernel needs the fewest


def attention_mask(bias_1HTT: Tensor | None, padding_BT: Tensor | None) -> Tensor | None:
    """Return what is added to the attention logits: the bias, and minus infinity in padded key columns.

    A bias without padding stays broadcast over the batch, (1, H, T, T); with padding the mask is (B, H, T, T), and
    padding without a bias gives a boolean (B, 1, 1, T), True where a key may be read.
    """
    if padding_BT is None:
        return bias_1HTT
    padding_B11T = padding_BT[:, None, None, :]
    return ~padding_B11T if bias_1HTT is None else bias_1HTT.masked_fill(padding_B11T, -torch.inf)


def attend(
    query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Return softmax(q k^T / sqrt(K) + mask) v, (B, H, T, K) (Vaswani et al., 2017, eq. 1)."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query_BHTK.dtype)
    if torch.is_grad_enabled() and query_BHTK.requires_grad and query_BHTK.device.type == "cpu":
        # The fused CPU kernel's backward pass is several times slower than plain products at training's short lengths.
        return attend_plainly(query_BHTK, key_BHTK, value_BHTK, mask, dropout)
    halves = query_BHTK.dtype is torch.bfloat16 and query_BHTK.device.type == "cpu" and query_BHTK.shape[2] >= SHORT
    if halves and not dropout and not torch.is_grad_enabled() and (mask is None or mask.dtype != torch.bool):
        return attend_in_blocks(query_BHTK, key_BHTK, value_BHTK, mask)
    return F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, mask, dropout)


def attend_plainly(
    query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Return what `attend` does, as products of matrices with the softmax in float32."""
    logits_BHTT = (query_BHTK * query_BHTK.shape[-1] ** -0.5) @ key_BHTK.transpose(-1, -2)
    if mask is not None:
        logits_BHTT = logits_BHTT.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits_BHTT + mask
    weights_BHTT = logits_BHTT.softmax(dim=-1, dtype=torch.float32).to(value_BHTK.dtype)
    return F.dropout(weights_BHTT, dropout) @ value_BHTK


def attend_in_blocks(query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, bias: Tensor | None) -> Tensor:
    """Return what `attend` does, by products of matrices for one sequence and some of its queries at a time.

    In bfloat16 on a CPU this takes two thirds of the time of the fused kernel. Logits are kept in bfloat16.
    """
    _, heads, keys, width = key_BHTK.shape
    step = max(1, BLOCK // (heads * keys))
    out_BTHK = value_BHTK.new_empty(*query_BHTK.transpose(1, 2).shape[:3], value_BHTK.shape[-1])
    for row, out_THK in enumerate(out_BTHK):
        key_HKT, value_HTK = key_BHTK[row].transpose(1, 2), value_BHTK[row]
        bias_HTT = None if bias is None else bias[row if len(bias) > 1 else 0]
        for start in range(0, len(out_THK), step):
            query_HTK = query_BHTK[row, :, start : start + step]
            if bias_HTT is None:
                logits_HTT = torch.bmm(query_HTK, key_HKT).mul_(width**-0.5)
            else:
                logits_HTT = torch.baddbmm(bias_HTT[:, start : start + step], query_HTK, key_HKT, alpha=width**-0.5)
            mixed_HTK = torch.bmm(logits_HTT.softmax(dim=-1), value_HTK)
            out_THK[start : start + step] = mixed_HTK.transpose(0, 1)
    return out_BTHK.transpose(1, 2)
