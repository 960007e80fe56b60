"""What every modality adapter shares: the class token, and how content becomes a TokenSequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from encoders.dropout import Dropout
from encoders.media import Limits
from encoders.modality import Modality
from encoders.tokens import TokenSequence

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Preprocessor(Protocol):
    """Raw input of one modality -> tensors; every modality's folder has one.

    >>> from encoders.image import ImagePreprocess, PatchConfig
    >>> preprocessor = PatchConfig(preprocess=ImagePreprocess(size=32)).preprocessor(None)
    >>> pixels = preprocessor(onepeace.Image("dog.jpg"))
    >>> pixels.shape, preprocessor.length(pixels)
    (torch.Size([3, 32, 32]), 1024)
    >>> [batch.shape for batch in preprocessor.collate([pixels, pixels])]
    [torch.Size([2, 3, 32, 32])]
    """

    limits: Limits

    def __call__(self, source: Any) -> Any:
        """Return the input as one tensor, or a list of windows with `samples` where it may be long."""

    def collate(self, items: Any) -> tuple[Tensor, ...]:
        """Return a batch of such tensors as the adapter takes them."""

    def length(self, item: Tensor) -> int:
        """Return what a batch's cost grows with."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Settings that every adapter has. B: batch, L: tokens, D: width.

    Raises:
        ValueError: a share or a dropout outside its range.

    >>> from encoders.image import ImagePreprocess, PatchConfig
    >>> config = PatchConfig(preprocess=ImagePreprocess(size=32), position_grid=2, bias_grid=2)
    >>> config.preprocessor(None)(onepeace.Image("dog.jpg")).shape
    torch.Size([3, 32, 32])
    >>> config.build(Shape(width=64, heads=4)).modality
    <Modality.IMAGE: 'image'>
    """

    kind: str  # which adapter of the modality
    layer_norm: bool = False  # LayerNorm over the content, before positions are added
    type_embedding: bool = False  # a learned vector added to every token of the modality
    gradient_share: float = 1.0  # share of the gradient that reaches the content (CogView's embedding shrink)
    dropout: float = 0.0
    attention_bias: bool = True  # relative position bias

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 0.0 < self.gradient_share <= 1.0:
            raise ValueError(f"gradient_share must be in (0, 1], got {self.gradient_share}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def build(self, shape: Shape) -> Adapter:
        """Return the adapter of this config."""
        raise NotImplementedError

    def preprocessor(self, tokenizer: Tokenizer | None) -> Preprocessor:
        """Return what makes this adapter's tensors from raw input; only text needs the model's tokenizer."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an adapter must know of the model it feeds.

    >>> Shape(width=384, heads=6)
    Shape(width=384, heads=6, bias_tables=1, padding_leaks=False)
    """

    width: int  # D
    heads: int  # H, of the attention that reads the bias
    bias_tables: int = 1  # 1: one bias for all layers; else one a layer
    padding_leaks: bool = False  # see ModelConfig.padding_leaks


class Adapter(nn.Module):
    """Raw tensors of one modality -> TokenSequence. Subclasses give content, positions and bias.

    >>> from encoders.image import ImagePreprocess, PatchConfig
    >>> config = PatchConfig(preprocess=ImagePreprocess(size=32), position_grid=2, bias_grid=2)
    >>> adapter = config.build(Shape(width=64, heads=4)).eval()
    >>> pixels = torch.zeros(1, 3, 32, 32)
    >>> tokens = adapter(pixels)  # 2 x 2 patches behind the class token
    >>> tokens.embeddings.shape
    torch.Size([1, 5, 64])
    >>> seen = adapter.visible(adapter.features(pixels), tokens, torch.tensor([[0, 2, 3]]))
    >>> seen.embeddings.shape
    torch.Size([1, 3, 64])
    >>> adapter.position_bias(5)[0].shape  # of each of 4 heads
    torch.Size([1, 4, 5, 5])
    >>> kept = adapter.kept(pixels)  # may be stored where the adapter does not train
    >>> torch.equal(adapter.resumed(kept.embeddings), tokens.embeddings)
    True
    >>> absent = torch.zeros(1, 5, dtype=torch.bool)
    >>> adapter.assemble(torch.zeros(1, 4, 64), None, absent, ()).embeddings.shape  # what subclasses end with
    torch.Size([1, 5, 64])
    """

    modality: ClassVar[Modality]
    features: Callable[..., Any]  # the modality's tensors -> what costs most to compute and needs no positions
    from_features: Callable[..., TokenSequence]  # that -> all tokens

    def __init__(self, config: AdapterConfig, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.gradient_share = config.gradient_share
        self.class_token = nn.Parameter(trunc_normal(torch.empty(width)))
        self.norm = nn.LayerNorm(width) if config.layer_norm else None
        self.type_embedding = nn.Parameter(torch.zeros(width)) if config.type_embedding else None
        self.dropout = Dropout(config.dropout)
        # From details of the input, which deep networks forget, to what is added to the tokens.
        self.detail: nn.Linear | None = None

    def forward(self, *inputs: Tensor) -> TokenSequence:
        """Return the tokens of one modality's tensors."""
        kept = self.kept(*inputs)
        return replace(kept, embeddings=self.resumed(kept.embeddings))

    def kept(self, *inputs: Tensor, seen: tuple[Tensor | None, ...] | None = None) -> TokenSequence:
        """Return what may be kept where all but the details' layer is frozen: tokens, and their details behind them.

        `seen` is what the tokens are made of, where that is not what details are taken from: an altered input.
        """
        sequence = self.from_features(self.features(*(inputs if seen is None else seen)))
        if self.detail is None:
            return sequence
        details_BLE = self._details(sequence, *inputs).to(sequence.embeddings.dtype)
        return replace(sequence, embeddings=torch.cat([sequence.embeddings, details_BLE], dim=-1))

    def resumed(self, embeddings: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) of what was kept, (B, L, D + E)."""
        if self.detail is None:
            return embeddings
        tokens_BLD, details_BLE = embeddings.tensor_split([len(self.class_token)], dim=-1)
        out_BLD: Tensor = tokens_BLD + self.detail(details_BLE)
        return out_BLD

    def _details(self, sequence: TokenSequence, *inputs: Tensor) -> Tensor:
        """Return what each token's stretch of the input looks like and where it is, (B, L, E)."""
        raise NotImplementedError

    def position_bias(self, length: int) -> tuple[Tensor, ...]:
        """Return what a sequence of so many tokens, class token included, adds to the attention; () where nothing.

        Of pictures it is that of a square one. Training on kept tokens asks for it, since tables may train.
        """
        bias = getattr(self, "bias", None)
        return () if bias is None else bias(length)

    def visible(self, features: Any, whole: TokenSequence, places_BP: Tensor) -> TokenSequence:
        """Return only the tokens at `places_BP` (0: the class token, -1: padding), for masked training.

        `whole` is what `from_features` made of `features`; choosing from it costs less than making it again.
        """
        return whole.at(places_BP)

    def assemble(
        self,
        content_BND: Tensor,
        position_LD: Tensor | None,
        padding_BL: Tensor,
        bias: tuple[Tensor, ...],
        class_content_BD: Tensor | None = None,
    ) -> TokenSequence:
        """Put the class token in front of N content tokens, normalise, add positions and type: L = N + 1.

        `position_LD` is (L, D) or (B, L, D). `class_content_BD` is added to the learned class token, which is how a
        backbone's pooled feature reaches it.
        """
        class_BD = self.class_token.expand(len(content_BND), -1)
        if class_content_BD is not None:
            class_BD = class_BD + class_content_BD
        x_BLD = torch.cat([class_BD.unsqueeze(1), content_BND], dim=1)
        if self.norm is not None:
            x_BLD = self.norm(x_BLD)
        if self.gradient_share != 1.0:
            x_BLD = self.gradient_share * x_BLD + (1.0 - self.gradient_share) * x_BLD.detach()
        if position_LD is not None:
            x_BLD = x_BLD + position_LD
        if self.type_embedding is not None:
            x_BLD = x_BLD + self.type_embedding
        return TokenSequence(self.modality, self.dropout(x_BLD), padding_BL, bias)


def trunc_normal(tensor: Tensor) -> Tensor:
    """Fill with N(0, 0.02) cut at one standard deviation, the official initialisation, and return the tensor."""
    if tensor.is_meta:  # nothing to fill, and torch takes seconds to find that out
        return tensor
    return nn.init.trunc_normal_(tensor, std=0.02, a=-0.02, b=0.02)
