"""Text: token ids -> TokenSequence, from embeddings (the official model) or from a BERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.adapter import Adapter, AdapterConfig, Shape, trunc_normal
from encoders.modality import Modality
from encoders.position_bias import PositionBias1d
from encoders.text.bert import Bert
from encoders.text.preprocess import TextPreprocess, TextPreprocessor
from encoders.tokens import TokenSequence

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


@dataclass(frozen=True, kw_only=True)
class BertConfig(AdapterConfig):
    """A BERT whose token features become the tokens. The defaults are all-MiniLM-L6-v2."""

    kind: Literal["bert"] = "bert"
    preprocess: TextPreprocess = TextPreprocess(
        max_tokens=62,
        lower=False,
        prefix="",
        normalise="none",
        begin_ids=(101,),
        end_ids=(102,),
        pad_id=0,
        unknown_id=100,
        vocabulary_size=30_522,
    )
    vocabulary_size: int = 30_522
    positions: int = 64  # longest sequence
    backbone_width: int = 384
    backbone_layers: int = 6
    backbone_heads: int = 12
    backbone_hidden: int = 1536
    backbone_dropout: float = 0.0
    attention_bias: bool = False

    def __post_init__(self) -> None:
        """Refuse what this adapter does not have."""
        super().__post_init__()
        if self.attention_bias:
            raise ValueError("adapters.text: a bert adapter has no attention_bias, positions are inside it")

    def build(self, shape: Shape) -> BertAdapter:
        """Return the adapter of this config."""
        return BertAdapter(self, shape)

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
        padding_BL = F.pad(ids_BN == self.pad_id, (1, 0), value=False)
        content_BND = self.token_embedding(ids_BN)
        bias = self.bias(length) if self.bias is not None else ()
        class_content_BD = None
        if self.class_projection is not None:
            class_content_BD = self.class_projection(mean_of_present(content_BND, padding_BL[:, 1:]))
        return self.assemble(content_BND, self.position_embedding[:length], padding_BL, bias, class_content_BD)


class BertAdapter(Adapter):
    """Token ids (B, N) -> BERT features -> TokenSequence, their mean added to the class token."""

    modality: ClassVar[Modality] = Modality.TEXT

    def __init__(self, config: BertConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.pad_id = config.preprocess.pad_id
        width = config.backbone_width
        self.backbone = Bert(
            config.vocabulary_size,
            width,
            config.backbone_layers,
            config.backbone_heads,
            config.backbone_hidden,
            config.positions,
            config.backbone_dropout,
        )
        self.projection = nn.Linear(width, shape.width)
        self.class_projection = nn.Linear(width, shape.width)

    def features(self, ids_BN: Tensor) -> Tensor:
        """Return the ids as they are: the backbone trains, so nothing can be kept."""
        return ids_BN

    def from_features(self, ids_BN: Tensor) -> TokenSequence:
        """Return the tokens of `ids_BN`, int64, padded with the pad id.

        Raises:
            ValueError: more tokens than the backbone has positions.
        """
        most = len(self.backbone.positions)
        if ids_BN.shape[1] > most:
            raise ValueError(f"at most {most} text tokens fit this model, got {ids_BN.shape[1]}")
        padding_BL = F.pad(ids_BN == self.pad_id, (1, 0), value=False)
        features_BND = self.backbone(ids_BN, padding_BL[:, 1:])
        return self.assemble(
            self.projection(features_BND),
            None,
            padding_BL,
            (),
            self.class_projection(mean_of_present(features_BND, padding_BL[:, 1:])),
        )


def mean_of_present(x_BND: Tensor, padding_BN: Tensor) -> Tensor:
    """Return the mean (B, D) over the tokens that are no padding."""
    present_BN1 = (~padding_BN).unsqueeze(-1).to(x_BND.dtype)
    return (x_BND * present_BN1).sum(1) / present_BN1.sum(1).clamp(min=1)


KINDS = {"tokens": TextConfig, "bert": BertConfig}
