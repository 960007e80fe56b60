"""Heads: from features to what a user asks for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.tokens import TokenSequence

MAX_LOGIT_SCALE = math.log(100.0)


class ProjectionHead(nn.Linear):
    """The class token's feature, projected and brought to length one: the embedding."""

    def forward(self, features: TokenSequence) -> Tensor:  # type: ignore[override]
        """Return (B, embedding_dim) unit rows."""
        return F.normalize(super().forward(features.embeddings[:, 0]), dim=-1)


class LogitScale(nn.Module):
    """The learned inverse temperature of the contrastive loss, kept between 1 and 100."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self) -> Tensor:
        """Return the scale. The stored logarithm is clamped in place first, without gradient."""
        with torch.no_grad():
            self.log.clamp_(0.0, MAX_LOGIT_SCALE)
        return self.log.exp()
