"""The head that finds any number of things: boxes in a picture, or spans of time in a sound.

B: batch, L: tokens, Q: slots, D: width, H: heads, K: width of a head, A: axes (2 in a picture, 1 in time).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.adapter import trunc_normal
from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model.attention import attention_mask
from onepeace.model.cross_attention import CrossAttention
from onepeace.model.feedforward import GeGLU

SPREAD = 1.0  # standard deviation of where a slot looks first, in distances of anchors
EDGE = 1e-3  # the last token of a sound may lie behind the longest window: what it finds lies before its end
NEVER = -1e4  # logit of a thing at padding, and of one that a likelier slot has found
SAME = 0.3  # overlap (IoU) from which on two tokens have found one thing; chosen on the val rows of drawn scenes
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


class DecoderLayer(nn.Module):
    """Slots look at each other, then at the tokens, then think (Carion et al., 2020, arXiv:2005.12872, A.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.among = CrossAttention(width, heads)
        self.tokens = CrossAttention(width, heads)
        self.feedforward = GeGLU(width, 2 * width, norm=False, dropout=0.0)

    def forward(self, x_BQD: Tensor, tokens_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """Return the slots, same shape."""
        y_BQD = self.norms[0](x_BQD)
        x_BQD = x_BQD + self.among(y_BQD, y_BQD)
        x_BQD = x_BQD + self.tokens(self.norms[1](x_BQD), tokens_BLD, mask)
        out: Tensor = x_BQD + self.feedforward(self.norms[2](x_BQD))
        return out


class SetHead(nn.Module):
    """Learned slots ask the fused tokens; each says where something is, and whether it is there at all.

    This is the decoder of DETR (Carion et al., 2020, arXiv:2005.12872, section 3.2), pre-norm, on tokens that were read
    together with a text. Slots have an anchor each, on a grid: they look around it first, by a Gaussian that is added
    to their logits (SMCA, Gao et al., 2021, arXiv:2101.07448, eq. 3), and say how far from it something is. Slots
    without anchors need many times the training.

    Args:
        width: of a token.
        heads: of the attention.
        slots: things that are found at most.
        layers: of the decoder.
        axes: 2 where tokens are a square grid, row by row; 1 where they follow each other.
        token_share: share of the whole that a token stands for, where they follow each other.
    """

    def __init__(
        self, width: int, heads: int, slots: int, layers: int, axes: int, token_share: float | None = None
    ) -> None:
        super().__init__()
        assert (axes == 1) == (token_share is not None)
        self.token_share = token_share
        self.anchors_QA = anchors(slots, axes)
        self.slots = nn.Parameter(trunc_normal(torch.empty(slots, width)))
        self.layers = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.place = nn.Linear(width, 2 * axes)
        self.presence = nn.Linear(width, 1)

    def forward(self, passes: Sequence[TokenSequence]) -> Tensor:
        """Return logits of each slot, (B, Q, 2A + 1), as `found` reads them."""
        (features,) = passes
        anchors_QA = self.anchors_QA.to(features.embeddings.device)
        mask = attention_mask(self._nearness(features.embeddings.shape[1], anchors_QA), features.padding)
        x_BQD = self.slots.expand(len(features.embeddings), -1, -1)
        for layer in self.layers:
            x_BQD = layer(x_BQD, features.embeddings, mask)
        x_BQD = self.norm(x_BQD)
        centre, size = self.place(F.gelu(self.hidden(x_BQD))).float().chunk(2, dim=-1)
        return torch.cat([centre + anchors_QA.logit(), size, self.presence(x_BQD).float()], dim=-1)

    def _nearness(self, length: int, anchors_QA: Tensor) -> Tensor:
        """Return what is added to the logits between slots and tokens, (1, 1, Q, L); nothing for the class token."""
        slots, axes = anchors_QA.shape
        places_LA = token_places(length - 1, axes, self.token_share).to(anchors_QA.device)
        spread = SPREAD / slots ** (1 / axes)
        away_QL = (anchors_QA[:, None] - places_LA[None]).square().sum(dim=-1) / (2 * spread**2)
        return F.pad(-away_QL, (1, 0))[None, None]


class TokenSetHead(nn.Module):
    """Each token is a slot: it says what lies at its own place, and whether it is the one that answers for it.

    This is the detection head of OWL-ViT (Minderer et al., 2022, arXiv:2205.06230, section 3.1), on tokens that were
    read together with a text. It has no query to learn, so it needs a fraction of the training of `SetHead`. Tokens of
    one thing cannot agree who answers for it as well as slots that look at each other, so outside of training the
    likeliest does.

    Args:
        width: of a token.
        axes: 2 where tokens are a square grid, row by row; 1 where they follow each other.
        token_share: share of the whole that a token stands for, where they follow each other.
    """

    def __init__(self, width: int, axes: int, token_share: float | None = None) -> None:
        super().__init__()
        assert (axes == 1) == (token_share is not None)
        self.axes, self.token_share = axes, token_share
        self.hidden = nn.Linear(width, width)
        self.place = nn.Linear(width, 2 * axes)
        self.presence = nn.Linear(width, 1)

    def forward(self, passes: Sequence[TokenSequence]) -> Tensor:
        """Return logits of each token but the class token, (B, L - 1, 2A + 1), as `found` reads them.

        Nothing is found at padding. Before any training, one token in all is thought to answer.
        """
        (features,) = passes
        x_BLD, padding_BL = features.embeddings[:, 1:], features.padding[:, 1:]
        places_LA = token_places(x_BLD.shape[1], self.axes, self.token_share).clamp(max=1.0 - EDGE).to(x_BLD.device)
        x_BLD = F.gelu(self.hidden(x_BLD))
        centre, size = self.place(x_BLD).float().chunk(2, dim=-1)
        most = x_BLD.shape[1] if self.token_share is None else 1 / self.token_share  # whatever else is in the batch
        presence_BL1 = self.presence(x_BLD).float() - math.log(most)
        presence_BL1 = presence_BL1.masked_fill(padding_BL.unsqueeze(-1), NEVER)
        logits_BLC = torch.cat([centre + places_LA.logit(), size, presence_BL1], dim=-1)
        return logits_BLC if self.training else without_repeats(logits_BLC)


def without_repeats(logits_BQC: Tensor, same: float = SAME) -> Tensor:
    """Return the logits with what a likelier slot has found already as absent: greedy non-maximum suppression.

    >>> logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 2.0], [0.1, 0.0, 0.0, 0.0, 1.0], [3.0, 3.0, -2.0, -2.0, 1.0]]])
    >>> without_repeats(logits)[..., -1].tolist()
    [[2.0, -10000.0, 1.0]]
    """
    places_BQC, _ = found(logits_BQC)
    low_BQA, high_BQA = places_BQC.chunk(2, dim=-1)
    shared_BQQ = torch.minimum(high_BQA[:, :, None], high_BQA[:, None]) - torch.maximum(
        low_BQA[:, :, None], low_BQA[:, None]
    )
    shared_BQQ = shared_BQQ.clamp(min=0.0).prod(dim=-1)
    size_BQ = (high_BQA - low_BQA).prod(dim=-1)
    repeats_BQQ = shared_BQQ > same * (size_BQ[:, :, None] + size_BQ[:, None] - shared_BQQ)
    order_BQ = logits_BQC[..., -1].argsort(dim=1, descending=True, stable=True)
    rank_BQ = order_BQ.argsort(dim=1)
    repeats_BQQ &= rank_BQ[:, :, None] < rank_BQ[:, None]  # slot q stands before the other
    gone_BQ = torch.zeros_like(rank_BQ, dtype=torch.bool)
    rows_B = torch.arange(len(order_BQ), device=order_BQ.device)
    for slot_B in order_BQ.unbind(dim=1):
        gone_BQ |= repeats_BQQ[rows_B, slot_B] & ~gone_BQ[rows_B, slot_B, None]
    presence_BQ1 = logits_BQC[..., -1:].masked_fill(gone_BQ.unsqueeze(-1), NEVER)
    return torch.cat([logits_BQC[..., :-1], presence_BQ1], dim=-1)


def anchors(slots: int, axes: int) -> Tensor:
    """Return middles of the cells of a grid, (Q, A), in shares of the whole: as evenly as that many slots lie.

    >>> anchors(4, axes=2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    side = math.ceil(slots ** (1 / axes) - 1e-9)
    cells_Q = torch.linspace(0, side**axes - 1, slots, device="cpu").round().long()
    return torch.stack([cells_Q // side**axis % side for axis in range(axes)], dim=1).add(0.5) / side


def token_places(tokens: int, axes: int, token_share: float | None) -> Tensor:
    """Return the middles of tokens, (L, A), in shares of the whole; (x, y) of a square grid where there are two axes.

    >>> token_places(4, 2, None).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    steps_L = torch.arange(tokens, device="cpu")
    if axes == 1:
        assert token_share is not None
        return ((steps_L + 0.5) * token_share).unsqueeze(1)
    side = math.isqrt(tokens)
    assert side**2 == tokens, f"{tokens} tokens are no square grid"
    return torch.stack([steps_L % side, steps_L // side], dim=1).add(0.5) / side
