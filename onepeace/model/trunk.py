"""Trunk: adapters and fusion encoder, what an embedding model and a task model share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from encoders.adapter import Adapter, trunc_normal
from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model.config import ModelConfig
from onepeace.model.fusion import FusionEncoder


class Trunk(nn.Module):
    """Tensors of some modalities -> contextual features (Wang et al., 2023, arXiv:2305.11172, section 2.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.adapters = nn.ModuleDict({m: c.build(config.shape) for m, c in config.adapters.items()})
        self.fusion = FusionEncoder(config)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that this model reads."""
        return tuple(self.config.adapters)

    def tokens(self, modality: Modality, *inputs: Tensor) -> TokenSequence:
        """Return the adapter's tokens for one modality's tensors.

        Raises:
            ValueError: the model does not read this modality.
        """
        if modality not in self.adapters:
            raise ValueError(f"this model reads {', '.join(self.modalities)}, not {modality}")
        sequence: TokenSequence = self.adapters[modality](*inputs)
        return sequence

    def features(self, sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
        """Return contextual features; sequences given together (text with image, ...) attend to each other."""
        out: list[TokenSequence] = self.fusion(sequences)
        return out


def initialise(module: nn.Module) -> None:
    """Set linear layers and convolution biases as the official model does; backbones keep their own start."""
    for name, child in module.named_children():
        if isinstance(module, Adapter) and name == "backbone":
            continue
        initialise(child)
    if isinstance(module, nn.Linear):
        trunc_normal(module.weight.data)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
