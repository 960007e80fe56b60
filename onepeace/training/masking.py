"""Training on a part of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from encoders.tokens import TokenSequence


def keep_tokens(sequence: TokenSequence, count: int) -> TokenSequence:
    """Return the class token and `count` others, chosen anew for each row; the rest is never computed.

    Fewer tokens make a step faster and the task harder (Li et al., 2022, arXiv:2212.00794). Padding is chosen last,
    and a sequence of no more tokens comes back as it is. The position bias becomes (B, H, count + 1, count + 1).
    """
    length = sequence.embeddings.shape[1]
    if length - 1 <= count:
        return sequence
    order_BL = torch.rand(sequence.padding.shape, device=sequence.padding.device) + sequence.padding
    order_BL[:, 0] = -1.0  # the class token stays, and stays first
    kept_BK = order_BL.argsort(dim=1)[:, : count + 1]
    rows_B1 = torch.arange(len(kept_BK), device=kept_BK.device).unsqueeze(1)
    return TokenSequence(
        sequence.modality,
        sequence.embeddings[rows_B1, kept_BK],
        sequence.padding[rows_B1, kept_BK],
        tuple(_kept_bias(bias, kept_BK) for bias in sequence.bias),
    )


def _kept_bias(bias: Tensor, kept_BK: Tensor) -> Tensor:
    rows_B = torch.arange(len(kept_BK)) if len(bias) > 1 else torch.zeros(len(kept_BK), dtype=torch.long)
    rows_B11 = rows_B.to(kept_BK.device)[:, None, None]
    return bias.permute(0, 2, 3, 1)[rows_B11, kept_BK[:, :, None], kept_BK[:, None, :]].permute(0, 3, 1, 2)
