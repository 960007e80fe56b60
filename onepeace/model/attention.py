"""Attention: the one place that builds the mask and picks the kernel.

B: batch, H: heads, T: tokens, K: width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
