"""The one type that crosses from the encoders to the model: a sequence of tokens of one modality."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .modality import Modality


@dataclass(frozen=True)
class TokenSequence:
    """What an adapter hands to the fusion encoder. B: batch, L: tokens, D: width, H: heads.

    `bias` holds what the adapter adds to the attention logits, one (1, H, L, L) tensor for all layers, or one a layer;
    it is empty where an adapter has none.

    Raises:
        ValueError: shapes that do not belong together.

    >>> tokens = TokenSequence(Modality.TEXT, torch.zeros(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool))
    >>> some = tokens.at(torch.tensor([[0, 3], [0, -1]]))  # the class token and one more, or none
    >>> some.embeddings.shape, some.padding.tolist()
    (torch.Size([2, 2, 8]), [[False, False], [False, True]])
    """

    modality: Modality
    embeddings: Tensor  # (B, L, D), the class token first
    padding: Tensor  # (B, L) bool, True where there is no token
    bias: tuple[Tensor, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse shapes that do not belong together."""
        if self.embeddings.ndim != 3:
            raise ValueError(f"embeddings must have shape (B, L, D), got {tuple(self.embeddings.shape)}")
        batch, length, _ = self.embeddings.shape
        if self.padding.shape != (batch, length):
            raise ValueError(f"padding must have shape {(batch, length)}, got {tuple(self.padding.shape)}")
        for bias in self.bias:
            if bias.ndim != 4 or bias.shape[0] not in (1, batch) or bias.shape[2:] != (length, length):
                raise ValueError(f"bias must have shape (1, H, {length}, {length}), got {tuple(bias.shape)}")

    def at(self, places_BP: Tensor) -> TokenSequence:
        """Return the tokens at `places_BP` of each row, int64; -1 gives padding. The bias becomes (B, H, P, P)."""
        rows_B1 = torch.arange(len(places_BP), device=places_BP.device).unsqueeze(1)
        absent_BP = places_BP < 0
        index_BP = places_BP.clamp(min=0)
        return TokenSequence(
            self.modality,
            self.embeddings[rows_B1, index_BP],
            self.padding[rows_B1, index_BP] | absent_BP,
            tuple(bias_at(bias, index_BP) for bias in self.bias),
        )


def bias_at(bias: Tensor, index_BP: Tensor) -> Tensor:
    """Return rows and columns of a bias: (1 or B, H, L, L) -> (B, H, P, P)."""
    rows_B = torch.arange(len(index_BP), device=bias.device) if len(bias) > 1 else torch.zeros_like(index_BP[:, 0])
    return bias.permute(0, 2, 3, 1)[rows_B[:, None, None], index_BP[:, :, None], index_BP[:, None, :]].permute(
        0, 3, 1, 2
    )
