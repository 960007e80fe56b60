"""Attention of some tokens to others, plain. B: batch, Q: queries, L: keys, D: width, H: heads."""

from __future__ import annotations

from torch import Tensor, nn

from onepeace.model.attention import attend


class CrossAttention(nn.Module):
    """Multi-head attention of some queries to keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BQD: Tensor, keys_BLD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, Q, D); `mask` comes from `attention_mask`."""
        parts = ((self.query, x_BQD), (self.key, keys_BLD), (self.value, keys_BLD))
        query, key, value = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, x in parts)
        out_BQD: Tensor = self.output(attend(query, key, value, mask).transpose(1, 2).flatten(2))
        return out_BQD
