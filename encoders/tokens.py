"""The one type that crosses from the encoders to the model: a sequence of tokens of one modality."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor


class Modality(StrEnum):
    """A kind of input. Its value names the folder of `encoders` that reads it."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"


@dataclass(frozen=True)
class TokenSequence:
    """What an adapter hands to the fusion encoder. B: batch, L: tokens, D: width, H: heads.

    `bias` holds what the adapter adds to the attention logits, one (1, H, L, L) tensor for all layers, or one a layer;
    it is empty where an adapter has none.
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
