"""The head that finds any number of things: boxes in a picture, or spans of time in a sound.

B: batch, L: tokens, Q: slots, D: width, H: heads, K: width of a head, A: axes (2 in a picture, 1 in time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.adapter import trunc_normal
from encoders.tokens import Modality, TokenSequence
from onepeace.model.attention import attend
from onepeace.model.feedforward import GeGLU

AXES = {Modality.IMAGE: 2, Modality.AUDIO: 1}  # of the places in what is searched


class Found(NamedTuple):
    """What the slots of a set head say."""

    places: Tensor  # (B, Q, 2A): boxes (left, top, right, bottom) or spans (start, end), in shares of the whole
    probabilities: Tensor  # (B, Q): that there is something


def found(logits_BQC: Tensor) -> Found:
    """Return places and probabilities of a set head's logits, (B, Q, 2A + 1): centres, sizes, presence.

    Shares are of a picture's width and height, or of the longest window that the model hears. Places lie within it.

    >>> places, probabilities = found(torch.zeros(1, 1, 5))
    >>> places.tolist(), probabilities.tolist()
    ([[[0.25, 0.25, 0.75, 0.75]]], [[0.5]])
    """
    logits_BQC = logits_BQC.float()
    centre, size = logits_BQC[..., :-1].sigmoid().chunk(2, dim=-1)
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
    return Found(corners.clamp(0.0, 1.0), logits_BQC[..., -1].sigmoid())


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


class DecoderLayer(nn.Module):
    """Slots look at each other, then at the tokens, then think (Carion et al., 2020, arXiv:2005.12872, A.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.among = CrossAttention(width, heads)
        self.tokens = CrossAttention(width, heads)
        self.feedforward = GeGLU(width, 2 * width, norm=False, dropout=0.0)

    def forward(self, x_BQD: Tensor, tokens_BLD: Tensor, mask: Tensor) -> Tensor:
        """Return the slots, same shape."""
        y_BQD = self.norms[0](x_BQD)
        x_BQD = x_BQD + self.among(y_BQD, y_BQD)
        x_BQD = x_BQD + self.tokens(self.norms[1](x_BQD), tokens_BLD, mask)
        out: Tensor = x_BQD + self.feedforward(self.norms[2](x_BQD))
        return out


class SetHead(nn.Module):
    """Learned slots ask the fused tokens; each says where something is, and whether it is there at all.

    This is the decoder of DETR (Carion et al., 2020, arXiv:2005.12872, section 3.2), pre-norm, on tokens that were read
    together with a text.
    """

    def __init__(self, width: int, heads: int, slots: int, layers: int, axes: int) -> None:
        super().__init__()
        self.slots = nn.Parameter(trunc_normal(torch.empty(slots, width)))
        self.layers = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.place = nn.Linear(width, 2 * axes)
        self.presence = nn.Linear(width, 1)

    def forward(self, passes: Sequence[TokenSequence]) -> Tensor:
        """Return logits of each slot, (B, Q, 2A + 1), as `found` reads them."""
        (features,) = passes
        mask = ~features.padding[:, None, None, :]
        x_BQD = self.slots.expand(len(features.embeddings), -1, -1)
        for layer in self.layers:
            x_BQD = layer(x_BQD, features.embeddings, mask)
        x_BQD = self.norm(x_BQD)
        return torch.cat([self.place(F.gelu(self.hidden(x_BQD))), self.presence(x_BQD)], dim=-1)
