"""The light decoder of masked pretraining: features of visible tokens in, predictions for all tokens out.

It is thrown away after pretraining (Wang et al., 2023, arXiv:2305.11172, section 3.2; MAE, He et al., 2022,
arXiv:2111.06377). B: batch, P: visible tokens, L: all tokens, D: width of the encoder, E: width of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from encoders.adapter import trunc_normal
from encoders.tokens import TokenSequence
from onepeace.model.config import ModelConfig
from onepeace.model.fusion import FusionEncoder
from onepeace.model.trunk import initialise

POSITIONS = {"text": 514, "image": 257, "audio": 1026}


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of the decoder; its other options are the encoder's, without LayerScale and DropPath."""

    width: int = 768
    layers: int = 2
    heads: int = 12
    hidden: int = 2048
    positions: Mapping[str, int] = field(default_factory=lambda: dict(POSITIONS))  # longest sequences

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        for name in ("width", "layers", "heads", "hidden"):
            if getattr(self, name) <= 0:
                raise ValueError(f"decoder.{name} must be positive, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"decoder.width {self.width} must be a multiple of decoder.heads {self.heads}")


class Decoder(nn.Module):
    """Fills the masked places with a learned token, lets all of them attend to each other, and predicts features."""

    def __init__(self, config: DecoderConfig, model: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.fusion = FusionEncoder(
            replace(
                model,
                width=width,
                layers=config.layers,
                heads=config.heads,
                hidden=config.hidden,
                layer_scale=None,
                drop_path=0.0,
            )
        )
        self.embeds = nn.ModuleDict({m: nn.Linear(model.width, width) for m in model.adapters})
        self.mask_tokens = nn.ParameterDict({m: trunc_normal(torch.empty(width)) for m in model.adapters})
        self.positions = nn.ParameterDict(
            {m: trunc_normal(torch.empty(config.positions[m], width)) for m in model.adapters}
        )
        self.heads = nn.ModuleDict({m: nn.Linear(width, model.width) for m in model.adapters})
        initialise(self)

    def forward(
        self, visible: Sequence[TokenSequence], places: Sequence[Tensor], paddings: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return (B, L, D) predictions for each sequence; those given together attend to each other.

        `visible` holds the encoder's features, `places` (B, P) says where each stands, -1 for none, and `paddings`
        (B, L) is True where the whole sequence has no token.
        """
        full = [self._fill(*parts) for parts in zip(visible, places, paddings, strict=True)]
        return [self.heads[s.modality](s.embeddings) for s in self.fusion(full)]

    def _fill(self, visible: TokenSequence, places_BP: Tensor, padding_BL: Tensor) -> TokenSequence:
        modality = visible.modality
        length = padding_BL.shape[1]
        if length > len(self.positions[modality]):
            raise ValueError(f"the decoder has {len(self.positions[modality])} {modality} positions, got {length}")
        embedded_BPE = self.embeds[modality](visible.embeddings)
        full_BLE = self.mask_tokens[modality].to(embedded_BPE.dtype).expand(len(padding_BL), length, -1).clone()
        rows_N, columns_N = (places_BP >= 0).nonzero(as_tuple=True)
        full_BLE[rows_N, places_BP[rows_N, columns_N]] = embedded_BPE[rows_N, columns_N]
        return TokenSequence(modality, full_BLE + self.positions[modality][:length], padding_BL)
