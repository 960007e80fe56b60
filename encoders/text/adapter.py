"""Text: token ids -> TokenSequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from encoders.adapter import Adapter, AdapterConfig, Shape, trunc_normal
from encoders.position_bias import PositionBias1d
from encoders.text.preprocess import TextPreprocess, TextPreprocessor
from encoders.tokens import Modality, TokenSequence

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TextConfig(AdapterConfig):
    """Learned token and position embeddings with a 1-D relative bias."""

    kind: Literal["tokens"] = "tokens"
    preprocess: TextPreprocess = TextPreprocess()
    vocabulary_size: int = 50_264
    positions: int = 514  # longest sequence, class token included
    bucket_size: int = 256  # of the relative bias
    pooled_class: bool = False  # add a projection of the mean token embedding to the class token

    def build(self, shape: Shape) -> TextAdapter:
        """Return the adapter of this config."""
        return TextAdapter(self, shape)

    def preprocessor(self, tokenizer: Tokenizer | None) -> TextPreprocessor:
        """Return what makes this adapter's tensors from raw input."""
        if tokenizer is None:
            raise ValueError("a model that reads text needs a tokenizer")
        return TextPreprocessor(self.preprocess, tokenizer)


class TextAdapter(Adapter):
    """Token ids (B, N) -> TokenSequence of N + 1 tokens. B: batch, D: width."""

    modality: ClassVar[Modality] = Modality.TEXT

    def __init__(self, config: TextConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        width = shape.width
        self.pad_id = config.preprocess.pad_id
        table = trunc_normal(torch.empty(config.vocabulary_size, width))
        table[self.pad_id].zero_()
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=self.pad_id)
        self.position_embedding = nn.Parameter(trunc_normal(torch.empty(config.positions, width)))
        self.bias = (
            PositionBias1d(config.bucket_size, shape.heads, shape.bias_tables) if config.attention_bias else None
        )
        self.class_projection = nn.Linear(width, width) if config.pooled_class else None

    def features(self, ids_BN: Tensor) -> Tensor:
        """Return the ids as they are: looking up an embedding costs nothing."""
        return ids_BN

    def from_features(self, ids_BN: Tensor) -> TokenSequence:
        """Return the tokens of `ids_BN`, int64, padded with the pad id.

        Raises:
            ValueError: more tokens than the model has positions.
        """
        length = ids_BN.shape[1] + 1
        if length > len(self.position_embedding):
            raise ValueError(
                f"at most {len(self.position_embedding) - 1} text tokens fit this model, got {ids_BN.shape[1]}"
            )
        padding_BL = nn.functional.pad(ids_BN == self.pad_id, (1, 0), value=False)
        content_BND = self.token_embedding(ids_BN)
        bias = self.bias(length) if self.bias is not None else ()
        return self.assemble(
            content_BND,
            self.position_embedding[:length],
            padding_BL,
            bias,
            None if self.class_projection is None else self.class_projection(self._mean(content_BND, padding_BL)),
        )

    @staticmethod
    def _mean(content_BND: Tensor, padding_BL: Tensor) -> Tensor:
        present_BN1 = (~padding_BL[:, 1:]).unsqueeze(-1).to(content_BND.dtype)
        return (content_BND * present_BN1).sum(1) / present_BN1.sum(1).clamp(min=1)


KINDS = {"tokens": TextConfig}
