"""OnePeace: adapters, fusion encoder and heads as one module on tensors. B: batch, D: embedding_dim."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model.config import ModelConfig
from onepeace.model.heads import LogitScale, ProjectionHead
from onepeace.model.trunk import Trunk, initialise


class OnePeace(Trunk):
    """One model for several modalities (Wang et al., 2023, arXiv:2305.11172).

    >>> network = model.folder.model()  # of the loaded model, as it trains
    >>> [str(modality) for modality in network.modalities]
    ['text', 'image', 'audio']
    >>> pixels, samples = torch.zeros(1, 3, 256, 256), torch.zeros(1, 32_000)
    >>> tokens = network.tokens(Modality.IMAGE, pixels)  # 8 x 8 places behind the class token
    >>> network.features([tokens])[0].embeddings.shape
    torch.Size([1, 65, 384])
    >>> rows = [network.embed_tokens(tokens), network.embed_image(pixels), network.embed(Modality.IMAGE, pixels)]
    >>> [torch.allclose(rows[0], row, atol=1e-5) for row in rows]
    [True, True, True]
    >>> network.embed_text(torch.tensor([[101, 1037, 3899, 102]])).shape
    torch.Size([1, 512])
    >>> network.embed_audio(samples, torch.tensor([32_000])).shape
    torch.Size([1, 512])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.heads = nn.ModuleDict({m: ProjectionHead(config.width, config.embedding_dim) for m in config.adapters})
        self.logit_scale = LogitScale()
        initialise(self)

    def embed_tokens(self, sequence: TokenSequence) -> Tensor:
        """Return (B, D) unit rows for tokens of one modality."""
        (features,) = self.features([sequence])
        embedding_BD: Tensor = self.heads[sequence.modality](features)
        return embedding_BD

    def embed(self, modality: Modality, *inputs: Tensor) -> Tensor:
        """Return (B, D) unit rows for one modality's tensors."""
        return self.embed_tokens(self.tokens(modality, *inputs))

    def embed_text(self, ids_BN: Tensor) -> Tensor:
        """Return (B, D) unit rows for token ids, padded with the pad id."""
        return self.embed(Modality.TEXT, ids_BN)

    def embed_image(self, pixels_BCHW: Tensor) -> Tensor:
        """Return (B, D) unit rows for normalised pixels (B, 3, height, width)."""
        return self.embed(Modality.IMAGE, pixels_BCHW)

    def embed_audio(self, samples_BN: Tensor, lengths_B: Tensor) -> Tensor:
        """Return (B, D) unit rows for waveforms, padded with zeros to N, of `lengths_B` samples."""
        return self.embed(Modality.AUDIO, samples_BN, lengths_B)


def count_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of a model, without allocating it.

    >>> count_parameters(model.folder.config)
    35452833
    """
    with torch.device("meta"):
        return sum(p.numel() for p in OnePeace(config).parameters())
